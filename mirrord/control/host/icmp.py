"""ICMP by a raw socket: echo requests and their answers, and what routers and hosts say of packets that we sent.

A packet socket gets no ICMP errors about what leaves by it, a raw ICMP socket gets all that come to the host: what they
quote tells which packet they are about. (The kernel's ping sockets would do for the requests; but `ping_group_range` is
empty in a new network namespace, which shuts out root, too.)

RFC 792, RFC 1122 3.2.2.1, RFC 4443; raw(7), linux/icmp.h, linux/icmpv6.h
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

from mirrord import kernel
from mirrord.control.host.view import Path
from mirrord.dataplane.frame.checksum import ones_sum
from mirrord.protocols import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_UDP, IPV4_HEADER, IPV6_HEADER

_ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_QUOTED_AT = 8  # where the packet begins that an error quotes
_PKTINFO = struct.Struct("=i4s4s")  # struct in_pktinfo: device, local address, unused
_PKTINFO6 = struct.Struct("=16si")  # struct in6_pktinfo

AWAY = {0: "network", 1: "host", 6: "network", 7: "host", 11: "network", 12: "host"}
"""Codes that say that nothing gets there: network and host, unreachable or unknown, also for this type of service."""
AWAY6 = {0: "network", 3: "host"}  # no route, address unreachable
UNBOUND, UNBOUND6 = {2: "protocol", 3: "port"}, {4: "port"}
"""Codes that say that the host is there, and no socket takes the packet."""
UNKNOWN_NEXT_HEADER = 1  # of ICMPv6's parameter problem: what IPv4 calls a protocol that is unreachable


class Answer(NamedTuple):
    """To an echo request of ours."""

    sender: str
    sequence: int


class Error(NamedTuple):
    """That a packet did not get to its end. `away`: the network or host is out of reach; else nobody is bound there."""

    sender: str
    away: bool
    what: str  # is unreachable: network, host, protocol, port
    source: str  # of the packet
    destination: str
    protocol: int
    source_port: int = 0
    port: int = 0


class Icmp:
    """A raw socket of one IP version, in the network namespace of the calling thread. OSError: EPERM, ..."""

    def __init__(self, version: int, mark: int) -> None:
        self._v6 = version == 6
        self._identifier = random.getrandbits(16)
        family, protocol = (socket.AF_INET6, IPPROTO_ICMPV6) if self._v6 else (socket.AF_INET, IPPROTO_ICMP)
        self._socket = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        try:
            wanted = (
                (kernel.ICMPV6_DEST_UNREACH, kernel.ICMPV6_PARAMPROB, kernel.ICMPV6_ECHO_REPLY)
                if self._v6
                else (kernel.ICMP_DEST_UNREACH, kernel.ICMP_ECHOREPLY)
            )
            blocked = [0xFFFFFFFF] * (8 if self._v6 else 1)
            for kind in wanted:
                blocked[kind >> 5] &= ~(1 << (kind & 31))
            level, option = (IPPROTO_ICMPV6, kernel.ICMPV6_FILTER) if self._v6 else (kernel.SOL_RAW, kernel.ICMP_FILTER)
            self._socket.setsockopt(level, option, struct.pack(f"={len(blocked)}I", *blocked))
            if mark:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def ask(self, path: Path, sequence: int) -> None:
        """Send an echo request by a path; `sequence` has 16 bits. OSError: ENETUNREACH, ..."""
        kind = kernel.ICMPV6_ECHO_REQUEST if self._v6 else kernel.ICMP_ECHO
        request = _ECHO.pack(kind, 0, 0, self._identifier, sequence)
        if not self._v6:  # of ICMPv6 the kernel makes the checksum itself
            request = _ECHO.pack(kind, 0, 0xFFFF ^ ones_sum(request), self._identifier, sequence)
        local = ip_address(path.local).packed if path.local else bytes(16 if self._v6 else 4)
        if self._v6:
            about = (IPPROTO_V6, kernel.IPV6_PKTINFO, _PKTINFO6.pack(local, path.device))
        else:
            about = (IPPROTO_V4, kernel.IP_PKTINFO, _PKTINFO.pack(path.device, local, bytes(4)))
        self._socket.sendmsg([request], [about], 0, (path.remote, 0))

    def read(self) -> Iterator[Answer | Error]:
        """What has come and is meant for us, up to now."""
        while True:
            try:
                data, sender = self._socket.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError:  # an error of the socket's own, which is told once
                return
            message = data if self._v6 else _behind_ipv4(data)
            found = self._parsed(message, sender[0]) if message else None
            if found is not None:
                yield found

    def _parsed(self, message: bytes, sender: str) -> Answer | Error | None:
        if len(message) < _ECHO.size or (not self._v6 and ones_sum(message) != 0xFFFF):
            return None  # of ICMPv6 the kernel has looked at the checksum
        kind, code, _, identifier, sequence = _ECHO.unpack_from(message)
        if kind == (kernel.ICMPV6_ECHO_REPLY if self._v6 else kernel.ICMP_ECHOREPLY):
            return Answer(sender, sequence) if identifier == self._identifier else None
        away = (AWAY6 if self._v6 else AWAY).get(code)
        what = away or (UNBOUND6 if self._v6 else UNBOUND).get(code)
        if self._v6 and kind == kernel.ICMPV6_PARAMPROB:
            away, what = None, "protocol" if code == UNKNOWN_NEXT_HEADER else None
        quoted = message[_QUOTED_AT:]
        if what is None:
            return None
        return (_quoted6 if self._v6 else _quoted4)(Error(sender, away is not None, what, "", "", 0), quoted)


IPPROTO_V4, IPPROTO_V6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6


def _behind_ipv4(packet: bytes) -> bytes:
    return packet[(packet[0] & 15) * 4 :] if packet else b""


def _quoted4(error: Error, packet: bytes) -> Error | None:
    """What the error is about, a packet that begins with its IPv4 header; None where it does not tell."""
    if len(packet) < IPV4_HEADER or packet[0] >> 4 != 4:
        return None
    ends = str(ip_address(packet[12:16])), str(ip_address(packet[16:20]))
    return _with_ports(error, ends, packet[9], _behind_ipv4(packet))


def _quoted6(error: Error, packet: bytes) -> Error | None:
    if len(packet) < IPV6_HEADER or packet[0] >> 4 != 6:
        return None
    ends = str(ip_address(packet[8:24])), str(ip_address(packet[24:40]))
    return _with_ports(error, ends, packet[6], packet[IPV6_HEADER:])


def _with_ports(error: Error, ends: tuple[str, str], protocol: int, transport: bytes) -> Error | None:
    source_port = port = 0
    if protocol == IPPROTO_UDP:
        if len(transport) < 4:
            return None
        source_port, port = struct.unpack_from("!HH", transport)
    return error._replace(source=ends[0], destination=ends[1], protocol=protocol, source_port=source_port, port=port)
