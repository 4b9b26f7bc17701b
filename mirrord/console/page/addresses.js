// @ts-check
// The addresses of a flow network, as the documents ask for them (a range and a mask, or a CIDR) and as the API has them.

/** An address as a number, and of how many bits; null: it is none. @param {string} text @returns {{value: bigint, bits: number} | null} */
function number(text) {
  const parts = text.trim().split('.')
  if (parts.length === 4 && parts.every((one) => /^\d{1,3}$/.test(one) && Number(one) < 256)) {
    return { value: parts.reduce((sum, one) => sum * 256n + BigInt(one), 0n), bits: 32 }
  }
  if (!text.includes(':') || !URL.canParse(`ws://[${text.trim()}]`)) return null
  const [head, tail] = new URL(`ws://[${text.trim()}]`).hostname.slice(1, -1).split('::').map((half) => half.split(':').filter(Boolean))
  const words = tail === undefined ? head : [...head, ...new Array(8 - head.length - tail.length).fill('0'), ...tail]
  return { value: words.reduce((sum, one) => sum * 65536n + BigInt(`0x${one}`), 0n), bits: 128 }
}

/** @param {bigint} value @param {number} bits */
function text(value, bits) {
  if (bits === 32) return [24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 255n).join('.')
  const words = [112n, 96n, 80n, 64n, 48n, 32n, 16n, 0n].map((shift) => ((value >> shift) & 65535n).toString(16))
  return new URL(`ws://[${words.join(':')}]`).hostname.slice(1, -1) // as RFC 5952 writes it
}

/** "255.255.255.0" or "24" as a length; what is neither comes back as it is. @param {string} mask */
export function prefixOf(mask) {
  const found = number(mask)
  if (found?.bits !== 32) return mask.trim().replace(/^\//, '')
  const bits = found.value.toString(2).padStart(32, '0')
  return /^1*0*$/.test(bits) ? String(bits.indexOf('0') < 0 ? 32 : bits.indexOf('0')) : mask.trim()
}

/** "24" as "255.255.255.0". @param {string} prefix */
export const maskOf = (prefix) => text(2n ** 32n - 2n ** (32n - BigInt(prefix)), 32)

/**
 * All addresses of a CIDR that a host may have, without the gateway where that is at an end: of IPv4 not the first and the last
 * (RFC 1122, 3.2.1.3), of IPv6 not the first (RFC 4291, 2.6.1), of a link of two both (RFC 3021, RFC 6164).
 * What is no CIDR comes back as it is: the daemon says what is wrong.
 * @param {string} cidr @param {string} gateway
 */
export function ofCidr(cidr, gateway) {
  const [address, prefix] = cidr.trim().split('/')
  const found = number(address ?? '')
  if (found === null || !/^\d{1,3}$/.test(prefix ?? '') || Number(prefix) > found.bits) return cidr.trim()
  const { value, bits } = found
  const size = 1n << BigInt(bits - Number(prefix))
  let first = value - (value % size)
  let last = first + size - 1n
  if (size > 2n) [first, last] = [first + 1n, bits === 32 ? last - 1n : last]
  const hop = number(gateway)
  if (size > 1n && hop?.value === first) first++
  if (size > 1n && hop?.value === last) last--
  return `${first === last ? text(first, bits) : `${text(first, bits)}-${text(last, bits)}`}/${prefix}`
}

/** @param {{method: string, first: string, last: string, mask: string, cidr: string, gateway: string}} form */
export function built(form) {
  if (form.method === 'cidr') return ofCidr(form.cidr, form.gateway)
  const range = form.last.trim() && form.last.trim() !== form.first.trim() ? `${form.first.trim()}-${form.last.trim()}` : form.first.trim()
  return `${range}/${form.first.includes(':') ? form.mask.trim() : prefixOf(form.mask)}` // a mask of IPv4 is none of IPv6: the daemon says so
}

/** @param {string} addresses as the API has them */
export function parts(addresses) {
  const [range, prefix] = addresses.split('/')
  const [first, last] = range.split('-')
  const ipv4 = number(first)?.bits === 32
  return { method: 'range', first, last: last ?? first, mask: ipv4 ? maskOf(prefix) : prefix, cidr: '' }
}
