"""Frames of many kinds and flows, in an order that is to be kept, and what the wire would carry of each."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from tests.support.offload import GSO_TCPV4, NEEDS_CSUM, Offloaded, Offloader
from tests.support.topology import Host

CLIENT, SERVER = "02:00:00:00:00:01", "02:00:00:00:00:02"
LINK = Ether(src=CLIENT, dst=SERVER)
FLOWS = 64


class Sent(NamedTuple):
    """A frame as it is given to the client's device, and what the wire would carry of it."""

    given: Offloaded
    wire: list[bytes]


def plain(*packets: Packet) -> Iterator[Sent]:
    """As they are, padded to what Ethernet wants."""
    for packet in packets:
        frame = bytes(packet).ljust(60, b"\0")
        yield Sent(Offloaded(frame), [frame])


def send_each(host: Host, device: str, frames: Sequence[Sent]) -> None:
    with Offloader(host, device) as out:
        for one in frames:
            out.send(one.given)


def datagram(number: int, flow: int, length: int) -> Packet:
    """Numbered, of one of 64 flows between as many hosts."""
    ends = IP(src=f"10.0.{flow}.1", dst="10.1.0.1") / UDP(sport=1000 + flow, dport=9)
    return LINK / ends / struct.pack("!I", number).ljust(length, b".")


def super_frame(number: int, length: int) -> Sent:
    """As a device with TSO is given it, cut every 1,000 bytes; each piece as scapy makes it."""

    def piece(sequence: int, identification: int, payload: bytes) -> bytes:
        ends = IP(src=f"10.2.{number % FLOWS}.1", dst="10.1.0.1", id=identification)
        return bytes(LINK / ends / TCP(sport=5000, dport=80, flags="A", seq=sequence) / payload)

    payload = (number.to_bytes(4, "big") * (length // 4 + 1))[:length]
    pieces = [piece(at, number + at // 1000, payload[at : at + 1000]) for at in range(0, length, 1000)]
    return Sent(Offloaded(piece(0, number, payload), NEEDS_CSUM, GSO_TCPV4, 54, 1000, 34, 16), pieces)


def mixture() -> Iterator[Sent]:
    """64 flows in turn: small and odd sizes, super-frames, fragments of IPv4 and IPv6, tags, what is no IP."""
    for number in range(3 * FLOWS):
        yield from plain(datagram(number, number % FLOWS, 18 + number * 7 % 1300))
        if number % 3 == 0:
            yield super_frame(number, 1500 + 37 * number)
        if number % 5 == 0:
            whole = IP(src="10.0.0.1", dst="10.1.0.1", id=number) / UDP(sport=1000, dport=9) / bytes(1994)
            yield from plain(*(LINK / piece for piece in fragment(whole, 1400)))
        if number % 7 == 0:
            whole = IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrFragment(id=number) / UDP() / bytes(2000)
            yield from plain(*(LINK / piece for piece in fragment6(whole, 1280)))
        if number % 11 == 0:
            yield from plain(LINK / Dot1Q(vlan=number) / IP(dst="10.1.0.1") / ICMP(seq=number) / bytes(20))
        if number % 13 == 0:
            yield from plain(LINK / ARP(psrc="10.0.0.1", pdst=f"10.1.0.{number}"))
