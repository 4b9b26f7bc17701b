// @ts-check
// The addresses of a flow network, as the documents ask for them (a range and a mask, or a CIDR) and as the API has them.

/** @param {string} text @returns {number | null} an IPv4 address as a number */
function number(text) {
  const parts = text.trim().split('.')
  if (parts.length !== 4 || !parts.every((one) => /^\d{1,3}$/.test(one) && Number(one) < 256)) return null
  return parts.reduce((sum, one) => sum * 256 + Number(one), 0)
}

/** @param {number} value */
const text = (value) => [24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) % 256).join('.')

/** "255.255.255.0" or "24" as a length; what is neither comes back as it is. @param {string} mask */
export function prefixOf(mask) {
  const value = number(mask)
  if (value === null) return mask.trim().replace(/^\//, '')
  const bits = value.toString(2).padStart(32, '0')
  return /^1*0*$/.test(bits) ? String(bits.indexOf('0') < 0 ? 32 : bits.indexOf('0')) : mask.trim()
}

/** "24" as "255.255.255.0". @param {string} prefix */
export const maskOf = (prefix) => text(2 ** 32 - 2 ** (32 - Number(prefix)))

/**
 * All addresses of a CIDR but its first and last, and the gateway where that is at an end.
 * What is no CIDR of IPv4 comes back as it is: the daemon says what is wrong.
 * @param {string} cidr @param {string} gateway
 */
export function ofCidr(cidr, gateway) {
  const [address, prefix] = cidr.trim().split('/')
  const [value, bits] = [number(address ?? ''), Number(prefix)]
  if (value === null || !/^\d+$/.test(prefix ?? '') || bits > 30) return cidr.trim()
  const size = 2 ** (32 - bits)
  const network = value - (value % size)
  let [first, last] = [network + 1, network + size - 2]
  const hop = number(gateway)
  if (hop === first) first++
  if (hop === last) last--
  return `${text(first)}-${text(last)}/${prefix}`
}

/** @param {{method: string, first: string, last: string, mask: string, cidr: string, gateway: string}} form */
export function built(form) {
  if (form.method === 'cidr') return ofCidr(form.cidr, form.gateway)
  const range = form.last.trim() && form.last.trim() !== form.first.trim() ? `${form.first.trim()}-${form.last.trim()}` : form.first.trim()
  return `${range}/${prefixOf(form.mask)}`
}

/** @param {string} addresses as the API has them */
export function parts(addresses) {
  const [range, prefix] = addresses.split('/')
  const [first, last] = range.split('-')
  const ipv4 = number(first) !== null
  return { method: 'range', first, last: last ?? first, mask: ipv4 ? maskOf(prefix) : prefix, cidr: '' }
}
