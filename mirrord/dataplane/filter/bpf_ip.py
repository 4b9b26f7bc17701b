"""The part of bpf_headers that reads an IP header and what is behind it: the fields that are asked, into their cells.

Most frames have their IP header right behind the Ethernet header, and no options in it. Their fields are at offsets
that are known here, and the kernel's compiler makes a load from such an offset some instructions; one from an offset in
X is a call, some 10 ns each on a processor whose returns are guarded. So these frames have a way of their own, and the
others the long one.
"""

from __future__ import annotations

from typing import NamedTuple

from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import Assembler, Label
from mirrord.dataplane.filter.cells import (
    DSCP_KNOWN,
    DSCP_SHIFT,
    FLAGS_KNOWN,
    ICMP_KNOWN,
    NONE,
    STORED,
    Cell,
)
from mirrord.dataplane.frame.headers import (
    ICMP_PROTOCOLS,
    IPV6_AUTHENTICATION,
    IPV6_FRAGMENT,
    IPV6_OPTIONS,
    MAX_EXTENSIONS,
    PORT_PROTOCOLS,
    TCP_FLAGS,
)
from mirrord.protocols import IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP

PORTS = {Cell.SOURCE_PORT, Cell.DESTINATION_PORT}
_ICMP = {Cell.ICMP_TYPE, Cell.ICMP_CODE}
TRANSPORT = {*PORTS, *_ICMP, Cell.TCP_FLAGS}
_USUAL = (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6)
"""What an IPv6 header may be followed by that is no extension header: the most frequent."""


class Header(NamedTuple):
    """A header to load from: `at` is its offset, None where that is in X."""

    asm: Assembler
    at: int | None = None

    def reaches(self, length: int, otherwise: Label) -> None:
        """Fall through where the frame has so many bytes of it."""
        self.asm.emit(op.LD_LEN)
        if self.at is None:
            self.asm.emit(op.SUB, length)
            self.asm.jump(op.JGE_X, false=otherwise)
        else:
            self.asm.jump(op.JGE, self.at + length, false=otherwise)

    def byte(self, offset: int) -> None:
        """Have the byte at this offset in A; likewise the others."""
        self._load(op.LD_B_ABS, op.LD_B_IND, offset)

    def half(self, offset: int) -> None:
        self._load(op.LD_H_ABS, op.LD_H_IND, offset)

    def word(self, offset: int) -> None:
        self._load(op.LD_W_ABS, op.LD_W_IND, offset)

    def _load(self, absolute: int, indirect: int, offset: int) -> None:
        if self.at is None:
            self.asm.emit(indirect, offset)
        else:
            self.asm.emit(absolute, self.at + offset)

    def behind(self, length: int) -> Header:
        """What follows so many bytes of it."""
        assert self.at is not None
        return Header(self.asm, self.at + length)


def read_usual_ipv4(header: Header, needs: frozenset[int], otherwise: Label, ready: Label) -> None:
    """Ends at `ready`, or goes to `otherwise` with what has options, or another version."""
    asm = header.asm
    header.reaches(20, ready)
    header.byte(0)
    asm.jump(op.JEQ, 0x45, false=otherwise)
    _ipv4_fields(header, needs, ready)
    if needs & TRANSPORT:
        read_transport(header.behind(20), needs, ready)
    asm.goto(ready)


def read_ipv4(asm: Assembler, needs: frozenset[int], transport: Label, ready: Label) -> None:
    """RFC 791, 3.1; X is the header's offset."""
    _version(asm, 4, 20, ready)
    asm.emit(op.STX, Cell.END)
    asm.emit(op.LD_B_IND, 0)
    asm.emit(op.AND, 15)
    asm.emit(op.LSH, 2)
    asm.jump(op.JGE, 20, false=ready)
    asm.emit(op.ADD_X)
    asm.emit(op.TAX)
    asm.emit(op.LD_LEN)
    asm.jump(op.JGE_X, false=ready)
    asm.emit(op.LDX_MEM, Cell.END)
    _ipv4_fields(Header(asm), needs, ready)
    if needs & TRANSPORT:
        asm.emit(op.LD_B_IND, 0)
        asm.emit(op.AND, 15)
        asm.emit(op.LSH, 2)
        asm.emit(op.ADD_X)
        asm.emit(op.TAX)
        asm.goto(transport)
    else:
        asm.goto(ready)


def _ipv4_fields(header: Header, needs: frozenset[int], ready: Label) -> None:
    """What is asked of a header that is whole. To `ready` from a later fragment, where ports may be asked."""
    asm = header.asm
    if Cell.FAMILY in needs:
        fill(asm, 4, [Cell.FAMILY])
    if Cell.PROTOCOL in needs:
        header.byte(9)
        asm.emit(op.ST, Cell.PROTOCOL)
    if Cell.DSCP in needs:  # RFC 2474, 3: the first six bits of the second byte
        header.byte(1)
        _dscp(asm, 0xFC, DSCP_SHIFT - 2)
    for cell, offset in ((Cell.SOURCE, 12), (Cell.DESTINATION, 16)):
        if cell in needs:
            header.word(offset)
            asm.emit(op.ST, cell)
    if needs & TRANSPORT:
        header.half(6)
        asm.jump(op.JSET, 0x1FFF, true=ready)


def _dscp(asm: Assembler, mask: int, shift: int) -> None:
    """Keep the six bits of A that are under the mask."""
    asm.emit(op.AND, mask)
    asm.emit(op.LSH, shift)
    asm.emit(op.ADD, DSCP_KNOWN << DSCP_SHIFT)
    asm.emit(op.ST, Cell.BITS)


def read_usual_ipv6(header: Header, needs: frozenset[int], otherwise: Label, ready: Label) -> None:
    """Ends at `ready`, or goes to `otherwise` with what may have an extension header, or is no IPv6."""
    asm, upper = header.asm, Label()
    header.reaches(40, ready)
    header.byte(0)
    asm.emit(op.AND, 0xF0)
    asm.jump(op.JEQ, 6 << 4, false=ready)
    if Cell.PROTOCOL in needs:
        header.byte(6)
        one_of(asm, _USUAL, upper, otherwise)
        asm.place(upper)
        asm.emit(op.ST, Cell.PROTOCOL)
    _ipv6_fields(header, needs)
    if needs & TRANSPORT:
        read_transport(header.behind(40), needs, ready)
    asm.goto(ready)


def read_ipv6(asm: Assembler, needs: frozenset[int], transport: Label, ready: Label) -> None:
    """RFC 8200, 3 and 4; X is the header's offset. While the walk lasts, PROTOCOL is the next header."""
    _version(asm, 6, 40, ready)
    _ipv6_fields(Header(asm), needs)
    if Cell.PROTOCOL not in needs:
        asm.goto(ready)
        return
    later, part, cut, hidden, found = Label(), Label(), Label(), Label(), Label()
    extensions = (*IPV6_OPTIONS, IPV6_FRAGMENT, IPV6_AUTHENTICATION)
    asm.emit(op.LD_B_IND, 6)
    asm.emit(op.ST, Cell.PROTOCOL)
    asm.emit(op.LD_IMM, 40)
    asm.emit(op.ADD_X)
    asm.emit(op.TAX)
    for _ in range(MAX_EXTENSIONS):
        _extension(asm, later, cut, found)
    asm.goto(cut)
    asm.place(later)
    asm.emit(op.LD_B_IND, 0)
    one_of(asm, extensions, hidden, part)
    asm.place(part)
    asm.emit(op.ST, Cell.PROTOCOL)
    asm.goto(ready)
    asm.place(cut)  # no extension header can follow here: one that is announced hides the protocol
    asm.emit(op.LD_MEM, Cell.PROTOCOL)
    one_of(asm, extensions, hidden, found)
    asm.place(hidden)
    fill(asm, NONE, [Cell.PROTOCOL])
    asm.goto(ready)
    asm.place(found)
    asm.goto(transport if needs & TRANSPORT else ready)


def _ipv6_fields(header: Header, needs: frozenset[int]) -> None:
    """What is asked of the fixed header but what follows it."""
    asm = header.asm
    if Cell.FAMILY in needs:
        fill(asm, 6, [Cell.FAMILY])
    if Cell.DSCP in needs:  # behind the version, RFC 8200, 3
        header.half(0)
        _dscp(asm, 0x0FC0, DSCP_SHIFT - 6)
    for cell in sorted(needs):
        if Cell.SOURCE <= cell < Cell.DIRECTION:
            header.word(8 + 4 * (cell - Cell.SOURCE))
            asm.emit(op.ST, cell)


def _extension(asm: Assembler, later: Label, cut: Label, found: Label) -> None:
    """Step over one extension header at X; to `found` where there is none."""
    options, authentication, fragment, step = Label(), Label(), Label(), Label()
    asm.emit(op.LD_LEN)
    asm.emit(op.SUB, 8)
    asm.jump(op.JGE_X, false=cut)
    asm.emit(op.LD_MEM, Cell.PROTOCOL)
    asm.jump(op.JEQ, IPV6_FRAGMENT, true=fragment)
    asm.jump(op.JEQ, IPV6_AUTHENTICATION, true=authentication)
    one_of(asm, IPV6_OPTIONS, options, found)
    asm.place(options)
    asm.emit(op.LD_B_IND, 1)
    asm.emit(op.ADD, 1)
    asm.emit(op.LSH, 3)
    asm.goto(step)
    asm.place(authentication)
    asm.emit(op.LD_B_IND, 1)
    asm.emit(op.ADD, 2)
    asm.emit(op.LSH, 2)
    asm.goto(step)
    asm.place(fragment)
    asm.emit(op.LD_H_IND, 2)
    asm.jump(op.JSET, 0xFFF8, true=later)
    asm.emit(op.LD_IMM, 8)
    asm.place(step)
    asm.emit(op.ADD_X)
    asm.emit(op.ST, Cell.END)
    asm.emit(op.LD_B_IND, 0)
    asm.emit(op.ST, Cell.PROTOCOL)
    asm.emit(op.LDX_MEM, Cell.END)


def _version(asm: Assembler, version: int, length: int, ready: Label) -> None:
    """Falls through where a header of this version and length is at X."""
    asm.emit(op.LD_LEN)
    asm.emit(op.SUB_X)
    asm.jump(op.JGE, length, false=ready)
    asm.emit(op.LD_B_IND, 0)
    asm.emit(op.AND, 0xF0)
    asm.jump(op.JEQ, version << 4, false=ready)


def read_transport(header: Header, asked: frozenset[int], ready: Label) -> None:
    """What is asked of the transport's header. Falls through, or goes to `ready`."""
    asm, icmp, ported = header.asm, Label(), Label()
    asm.emit(op.LD_MEM, Cell.PROTOCOL)
    if asked & _ICMP:
        for protocol in ICMP_PROTOCOLS:
            asm.jump(op.JEQ, protocol, true=icmp)
    if asked & PORTS:
        one_of(asm, PORT_PROTOCOLS, ported, ready)
        asm.place(ported)
        _ports(header, ready)
        if Cell.TCP_FLAGS in asked:
            asm.emit(op.LD_MEM, Cell.PROTOCOL)
    if Cell.TCP_FLAGS in asked:
        asm.jump(op.JEQ, IPPROTO_TCP, false=ready)
        _flags(header, ready)
    if asked & _ICMP:
        asm.goto(ready)
    asm.place(icmp)
    for cell, offset in ((Cell.ICMP_TYPE, 0), (Cell.ICMP_CODE, 1)):  # RFC 792, RFC 4443 2.1
        if cell in asked:
            header.reaches(offset + 1, ready)
            header.byte(offset)
            asm.emit(op.ADD, ICMP_KNOWN)
            asm.emit(op.ST, STORED[cell])


def _ports(header: Header, ready: Label) -> None:
    """RFC 9293, 768, 9260."""
    header.reaches(4, ready)
    header.half(0)
    header.asm.emit(op.ST, Cell.SOURCE_PORT)
    header.half(2)
    header.asm.emit(op.ST, Cell.DESTINATION_PORT)


def _flags(header: Header, ready: Label) -> None:
    """RFC 9293, 3.1. X is lost."""
    header.reaches(TCP_FLAGS + 1, ready)
    header.byte(TCP_FLAGS)
    header.asm.emit(op.ADD, FLAGS_KNOWN)
    header.asm.emit(op.LDX_MEM, Cell.BITS)
    header.asm.emit(op.ADD_X)
    header.asm.emit(op.ST, Cell.BITS)


# Small pieces


def fill(asm: Assembler, value: int, cells: list[int]) -> None:
    if cells:
        asm.emit(op.LD_IMM, value)
    for cell in cells:
        asm.emit(op.ST, cell)


def one_of(asm: Assembler, values: tuple[int, ...], found: Label, otherwise: Label) -> None:
    for value in values[:-1]:
        asm.jump(op.JEQ, value, true=found)
    asm.jump(op.JEQ, values[-1], true=found, false=otherwise)
