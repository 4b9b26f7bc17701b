// @ts-check
// A pcapng stream as the daemon writes it: little-endian, times in nanoseconds. draft-ietf-opsawg-pcapng 3.1, 4.1 to 4.6.

const [SECTION, INTERFACE, STATISTICS, PACKET] = [0x0a0d0d0a, 1, 5, 6]
const FLAGS = 2 // epb_flags; its two lowest bits: 1 inbound, 2 outbound
const RAW = 101 // link type: IP packets

/** @typedef {{at: number, egress: boolean, length: number, data: Uint8Array, raw: boolean, block: Uint8Array}} Packet */

/** Takes pieces of a stream, gives the packets that are whole. */
export class Reader {
  constructor() {
    this.rest = new Uint8Array(0)
    /** @type {Uint8Array[]} what a file of these packets begins with */
    this.head = []
    this.raw = false
    this.missing = 0
  }

  /** @param {Uint8Array} piece @returns {Packet[]} */
  read(piece) {
    const data = new Uint8Array(this.rest.length + piece.length)
    data.set(this.rest)
    data.set(piece, this.rest.length)
    const view = new DataView(data.buffer)
    const found = []
    let at = 0
    while (at + 12 <= data.length) {
      const [kind, length] = [view.getUint32(at, true), view.getUint32(at + 4, true)]
      if (length < 12 || length % 4) throw new Error('this is no pcapng')
      if (at + length > data.length) break
      const block = data.slice(at, at + length)
      if (kind === SECTION) this.head = [block]
      if (kind === INTERFACE) {
        this.head.push(block)
        this.raw = view.getUint16(at + 8, true) === RAW
      }
      if (kind === STATISTICS && length >= 32) this.missing = Number(view.getBigUint64(at + 24, true)) // isb_ifdrop is its only option
      if (kind === PACKET) found.push(this.packet(block))
      at += length
    }
    this.rest = data.slice(at)
    return found
  }

  /** @param {Uint8Array} block @returns {Packet} */
  packet(block) {
    const view = new DataView(block.buffer)
    const nanoseconds = (BigInt(view.getUint32(12, true)) << 32n) | BigInt(view.getUint32(16, true))
    const captured = view.getUint32(20, true)
    const options = 28 + captured + (-captured & 3)
    const flags = options + 8 <= block.length - 4 && view.getUint16(options, true) === FLAGS ? view.getUint32(options + 4, true) : 0
    return {
      at: Number(nanoseconds / 1000n) / 1000, egress: (flags & 3) === 2, length: view.getUint32(24, true),
      data: block.subarray(28, 28 + captured), raw: this.raw, block,
    }
  }
}
