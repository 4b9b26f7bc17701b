// @ts-check
// A frame in a line, enough to recognise it: addresses, protocol, ports. What is cut off or unknown is told as far as it goes.
// IEEE 802.3, 802.1Q; RFC 791, 8200, 826, 792, 4443, 9293, 768; tunnels by RFC 7348, 8926, 2784.

const TAGS = new Set([0x8100, 0x88a8, 0x9100, 0x9200])
const NAMES = /** @type {Record<number, string>} */ ({ 0x0806: 'ARP', 0x88cc: 'LLDP', 0x8847: 'MPLS', 0x8863: 'PPPoE', 0x8864: 'PPPoE', 0x888e: '802.1X', 0x88f7: 'PTP' })
const PROTOCOLS = /** @type {Record<number, string>} */ ({ 1: 'ICMP', 2: 'IGMP', 4: 'IPIP', 6: 'TCP', 17: 'UDP', 41: 'IPv6', 47: 'GRE', 50: 'ESP', 51: 'AH', 58: 'ICMPv6', 89: 'OSPF', 103: 'PIM', 112: 'VRRP', 132: 'SCTP' })
const PORTS = /** @type {Record<number, string>} */ ({ 22: 'SSH', 53: 'DNS', 67: 'DHCP', 68: 'DHCP', 80: 'HTTP', 123: 'NTP', 161: 'SNMP', 443: 'TLS', 514: 'syslog', 546: 'DHCPv6', 547: 'DHCPv6', 853: 'TLS', 4789: 'VXLAN', 5353: 'mDNS', 6081: 'Geneve', 8472: 'VXLAN' })
const ICMP = /** @type {Record<number, string>} */ ({ 0: 'echo reply', 3: 'unreachable', 5: 'redirect', 8: 'echo request', 11: 'time exceeded' })
const ICMPV6 = /** @type {Record<number, string>} */ ({ 1: 'unreachable', 2: 'packet too big', 3: 'time exceeded', 128: 'echo request', 129: 'echo reply', 133: 'router solicitation', 134: 'router advertisement', 135: 'neighbour solicitation', 136: 'neighbour advertisement' })
const EXTENSIONS = new Set([0, 43, 60, 135, 139, 140])
const FLAGS = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG', 'ECE', 'CWR']

/** @typedef {{source: string, destination: string, protocol: string, info: string, vlan: string}} Told */

/** @param {Uint8Array} data @param {boolean} raw whether it begins with an IP header @returns {Told} */
export function decode(data, raw) {
  const told = { source: '', destination: '', protocol: '?', info: '', vlan: '' }
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength)
  try {
    if (raw) ip(view, 0, told)
    else ethernet(view, told)
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    told.info = [told.info, '…'].filter(Boolean).join(' ') // the frame is cut here
  }
  return told
}

/** @param {DataView} view @param {Told} told */
function ethernet(view, told) {
  told.destination = mac(view, 0)
  told.source = mac(view, 6)
  let [at, type] = [12, view.getUint16(12)]
  const vlans = []
  while (TAGS.has(type) && vlans.length < 4) {
    vlans.push(view.getUint16(at + 2) & 0xfff)
    at += 4
    type = view.getUint16(at)
  }
  told.vlan = vlans.join('/')
  if (type === 0x0800 || type === 0x86dd) return ip(view, at + 2, told)
  if (type === 0x0806) return arp(view, at + 2, told)
  told.protocol = type < 0x0600 ? 'LLC' : NAMES[type] ?? `0x${type.toString(16).padStart(4, '0')}`
}

/** @param {DataView} view @param {number} at @param {Told} told */
function arp(view, at, told) {
  told.protocol = 'ARP'
  const [from, to] = [ipv4(view, at + 14), ipv4(view, at + 24)]
  told.info = view.getUint16(at + 6) === 1 ? `who has ${to}? tell ${from}` : `${from} is at ${mac(view, at + 8)}`
}

/** @param {DataView} view @param {number} at @param {Told} told */
function ip(view, at, told) {
  const version = view.getUint8(at) >> 4
  if (version === 4) {
    told.source = ipv4(view, at + 12)
    told.destination = ipv4(view, at + 16)
    const [fragment, protocol] = [view.getUint16(at + 6) & 0x1fff, view.getUint8(at + 9)]
    if (fragment) return void Object.assign(told, { protocol: PROTOCOLS[protocol] ?? `IP ${protocol}`, info: `fragment at ${fragment * 8}` })
    return transport(view, at + 4 * (view.getUint8(at) & 15), protocol, told)
  }
  if (version !== 6) return void (told.protocol = '?')
  told.source = ipv6(view, at + 8)
  told.destination = ipv6(view, at + 24)
  let [next, head] = [view.getUint8(at + 6), at + 40]
  for (let n = 0; n < 8; n++) {
    if (next === 44) {
      const offset = view.getUint16(head + 2) & 0xfff8
      if (offset) return void Object.assign(told, { protocol: PROTOCOLS[view.getUint8(head)] ?? 'IPv6', info: `fragment at ${offset}` })
      next = view.getUint8(head)
      head += 8
    } else if (EXTENSIONS.has(next)) {
      const length = 8 * (view.getUint8(head + 1) + 1)
      next = view.getUint8(head)
      head += length
    } else break
  }
  transport(view, head, next, told)
}

/** @param {DataView} view @param {number} at @param {number} protocol @param {Told} told */
function transport(view, at, protocol, told) {
  told.protocol = PROTOCOLS[protocol] ?? `IP ${protocol}`
  if (protocol === 1 || protocol === 58) {
    const names = protocol === 1 ? ICMP : ICMPV6
    const [type, code] = [view.getUint8(at), view.getUint8(at + 1)]
    told.info = names[type] ?? `type ${type} code ${code}`
    if (told.info.startsWith('echo')) told.info += `, id ${view.getUint16(at + 4)}, seq ${view.getUint16(at + 6)}`
  }
  if (protocol !== 6 && protocol !== 17 && protocol !== 132) return
  const [from, to] = [view.getUint16(at), view.getUint16(at + 2)]
  told.source = joined(told.source, from)
  told.destination = joined(told.destination, to)
  const name = PORTS[to] ?? PORTS[from]
  if (name) told.protocol = `${told.protocol} ${name}`
  if (protocol !== 6) return
  const flags = view.getUint8(at + 13)
  told.info = FLAGS.filter((_, bit) => flags & (1 << bit)).join(' ')
}

/** @param {string} address @param {number} port */
const joined = (address, port) => (address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`)

/** @param {DataView} view @param {number} at */
const mac = (view, at) => [0, 1, 2, 3, 4, 5].map((n) => view.getUint8(at + n).toString(16).padStart(2, '0')).join(':')

/** @param {DataView} view @param {number} at */
const ipv4 = (view, at) => [0, 1, 2, 3].map((n) => view.getUint8(at + n)).join('.')

/** As RFC 5952 writes it. @param {DataView} view @param {number} at */
function ipv6(view, at) {
  const words = [0, 2, 4, 6, 8, 10, 12, 14].map((n) => view.getUint16(at + n).toString(16))
  const runs = [...words.join(':').matchAll(/\b0(:0)+\b/g)].sort((one, other) => other[0].length - one[0].length)
  return runs.length ? words.join(':').replace(runs[0][0], '').replace(/^:?:?$|^:|:$|::/, '::').replace(/:::+/, '::') : words.join(':')
}
