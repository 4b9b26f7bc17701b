// @ts-check
// Packets of a capture file: pcap (draft-ietf-opsawg-pcap) and pcapng (draft-ietf-opsawg-pcapng), of either byte order.

const [ETHERNET, RAW] = [1, 101] // link types
const MAGIC = new Set([0xa1b2c3d4, 0xa1b23c4d]) // microseconds, nanoseconds
const [SECTION, INTERFACE, SIMPLE, ENHANCED] = [0x0a0d0d0a, 1, 3, 6]
const ORDER = 0x1a2b3c4d

/** @typedef {{data: string, length: number, direction?: 'ingress' | 'egress'}} Packet as the API takes it */

/**
 * The first packets of a file. Throws an Error with what is wrong with it.
 * @param {ArrayBuffer} buffer @param {number} most @returns {Packet[]}
 */
export function packetsOf(buffer, most) {
  const view = new DataView(buffer)
  if (buffer.byteLength < 24) throw new Error('this is no pcap or pcapng file: it is too short')
  try {
    if (view.getUint32(0) === SECTION) return pcapng(view, most)
    for (const little of [true, false]) if (MAGIC.has(view.getUint32(0, little))) return pcap(view, little, most)
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    throw new Error('the file ends within a packet')
  }
  throw new Error('this is no pcap or pcapng file')
}

/** @param {DataView} view @param {boolean} little @param {number} most */
function pcap(view, little, most) {
  const link = view.getUint32(20, little) & 0xffff
  const found = []
  for (let at = 24; at + 16 <= view.byteLength && found.length < most;) {
    const captured = view.getUint32(at + 8, little)
    found.push(packet(view, at + 16, captured, view.getUint32(at + 12, little), link))
    at += 16 + captured
  }
  return found
}

/** @param {DataView} view @param {number} most */
function pcapng(view, most) {
  const found = /** @type {Packet[]} */ ([])
  let [little, links] = [true, /** @type {number[]} */ ([])]
  for (let at = 0; at + 12 <= view.byteLength && found.length < most;) {
    if (view.getUint32(at) === SECTION) {
      little = view.getUint32(at + 8, true) === ORDER
      links = []
    }
    const [kind, length] = [view.getUint32(at, little), view.getUint32(at + 4, little)]
    if (length < 12 || length % 4) throw new Error('this is no pcapng: a block has an impossible length')
    if (kind === INTERFACE) links.push(view.getUint16(at + 8, little))
    if (kind === ENHANCED) {
      const captured = view.getUint32(at + 20, little)
      const one = packet(view, at + 28, captured, view.getUint32(at + 24, little), links[view.getUint32(at + 8, little)])
      found.push({ ...one, ...direction(view, at + 28 + captured + (-captured & 3), at + length - 4, little) })
    }
    if (kind === SIMPLE) {
      const original = view.getUint32(at + 8, little)
      found.push(packet(view, at + 12, Math.min(original, length - 16), original, links[0]))
    }
    at += length
  }
  return found
}

/** By the option epb_flags, if it is there. @param {DataView} view @param {number} at @param {number} end @param {boolean} little @returns {Partial<Packet>} */
function direction(view, at, end, little) {
  while (at + 4 <= end) {
    const [code, length] = [view.getUint16(at, little), view.getUint16(at + 2, little)]
    if (code === 0) break
    if (code === 2 && length === 4) {
      const way = view.getUint32(at + 4, little) & 3
      return way === 1 ? { direction: 'ingress' } : way === 2 ? { direction: 'egress' } : {}
    }
    at += 4 + length + (-length & 3)
  }
  return {}
}

/** @param {DataView} view @param {number} at @param {number} captured @param {number} original @param {number} link @returns {Packet} */
function packet(view, at, captured, original, link) {
  if (link !== ETHERNET && link !== RAW) throw new Error(`its packets are not Ethernet (link type ${link})`)
  const bytes = [...new Uint8Array(view.buffer, at, captured)]
  const version = (bytes[0] ?? 0) >> 4
  const head = link === RAW ? [...new Array(12).fill(0), ...(version === 6 ? [0x86, 0xdd] : [0x08, 0x00])] : []
  const data = [...head, ...bytes].map((one) => one.toString(16).padStart(2, '0')).join('')
  return { data, length: Math.max(original, captured) + head.length }
}

/** Frames of hexadecimal digits as people have them: a frame a paragraph; offsets and text of a dump are left out. @param {string} text @returns {Packet[]} */
export function packetsOfText(text) {
  return text.split(/\n\s*\n/).map((part) => part.split('\n').map((line) => {
    const dump = /^\s*(?:0x)?[0-9a-f]{4,8}:?\s+((?:[0-9a-f]{2,4}\s?){1,16})(?:\s{2,}.*)?$/i.exec(line) // tcpdump -xx, hexdump, xxd
    return (dump ? dump[1] : line.replace(/0x/gi, '')).replace(/[\s:.,-]/g, '')
  }).join('')).filter(Boolean).map((data) => ({ data, length: Math.ceil(data.length / 2) }))
}
