"""headers.parse in classic BPF: what a program's tests need of the headers, read once into its scratch cells.

Exactly the same on every frame, cut and lying ones too. So every load is preceded by a check of the length: the kernel
ends a program that loads past the end.

A raw program is for the socket of a device without Ethernet, where a frame begins with its network header, and the
kernel has its ethertype beside it; without_ethernet.py defines what is read then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import Assembler, Label
from mirrord.dataplane.filter.cells import (
    DSCP_KNOWN,
    DSCP_SHIFT,
    FLAGS_KNOWN,
    ICMP_KNOWN,
    NONE,
    OF_BESIDE,
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
from mirrord.dataplane.frame.without_ethernet import FIRST_ETHERTYPE, VERSIONS
from mirrord.protocols import ETH_HEADER, ETH_P_IP, ETH_P_IPV6, IPPROTO_TCP, TPIDS

_PORTS = {Cell.SOURCE_PORT, Cell.DESTINATION_PORT}
_ICMP = {Cell.ICMP_TYPE, Cell.ICMP_CODE}
_TRANSPORT = {*_PORTS, *_ICMP, Cell.TCP_FLAGS}
_NUMBERS = {Cell.PROTOCOL, *_PORTS}
_NOTHING: frozenset[int] = frozenset()


class Needs(NamedTuple):
    """The cells that are asked of any frame, of IPv4 and of IPv6."""

    of_any: frozenset[int] = _NOTHING
    of_ipv4: frozenset[int] = _NOTHING
    of_ipv6: frozenset[int] = _NOTHING


def together(needs: Iterable[Needs]) -> Needs:
    """What all of these need."""
    return Needs(*(frozenset[int]().union(*cells) for cells in zip(Needs(), *needs, strict=True)))


def read(asm: Assembler, needs: Needs) -> None:
    """Fill the cells that are asked."""
    if Cell.VLAN in needs.of_any:
        read_outer_vlan(asm)
    read_headers(asm, needs)


def read_outer_vlan(asm: Assembler) -> None:
    """The id of the outermost tag: the kernel's metadata, else the frame's first."""
    if asm.raw:
        _store(asm, NONE, [Cell.VLAN])
        return
    tagged, untagged, in_frame, known, done = Label(), Label(), Label(), Label(), Label()
    asm.emit(op.LD_W_ABS, op.VLAN_TAG_PRESENT)
    asm.jump(op.JEQ, 0, true=in_frame)
    asm.emit(op.LD_W_ABS, op.VLAN_TAG)
    asm.goto(known)
    asm.place(in_frame)
    _need(asm, ETH_HEADER + 4, untagged)
    asm.emit(op.LD_H_ABS, ETH_HEADER - 2)
    _one_of(asm, TPIDS, tagged, untagged)
    asm.place(untagged)
    asm.emit(op.LD_IMM, asm.pvid or NONE)
    asm.goto(done)
    asm.place(tagged)
    asm.emit(op.LD_H_ABS, ETH_HEADER)
    asm.emit(op.AND, 0xFFF)
    asm.goto(done)
    asm.place(known)
    asm.emit(op.AND, 0xFFF)
    if asm.pvid:
        asm.jump(op.JEQ, 0, false=done)
        asm.emit(op.LD_IMM, asm.pvid)
    asm.place(done)
    asm.emit(op.ST, Cell.VLAN)


def read_headers(asm: Assembler, needs: Needs) -> None:
    """Fill the cells that are asked but VLAN; what is the transport's brings its protocol."""
    of_ipv4, of_ipv6 = _with_protocol(needs.of_ipv4), _with_protocol(needs.of_ipv6)
    asked = (needs.of_any | of_ipv4 | of_ipv6) - {Cell.VLAN, *OF_BESIDE}
    if not asked:
        return
    # The kernel refuses a program with a way to a cell on which nothing was stored.
    wanted = sorted({STORED.get(cell, cell) for cell in asked})
    absent = [cell for cell in wanted if cell in _NUMBERS]
    _store(asm, NONE, absent)
    _store(asm, 0, [cell for cell in wanted if cell not in absent])
    ipv4, ipv6, transport, ready = Label(), Label(), Label(), Label()
    networks = {ETH_P_IP: ipv4} if of_ipv4 else {}
    networks |= {ETH_P_IPV6: ipv6} if of_ipv6 else {}
    find_network = _kernels_ethertype if asm.raw else _ethertype
    find_network(asm, networks, ready, store=Cell.ETHERTYPE in wanted)
    if of_ipv4:
        asm.place(ipv4)
        _ipv4(asm, of_ipv4, transport, ready)
    if of_ipv6:
        asm.place(ipv6)
        _ipv6(asm, of_ipv6, transport, ready)
    asm.place(transport)
    if asked & _TRANSPORT:
        _transport(asm, asked, ready)
    asm.place(ready)


def _with_protocol(cells: frozenset[int]) -> frozenset[int]:
    return cells | {Cell.PROTOCOL} if cells & _TRANSPORT else cells


def _store(asm: Assembler, value: int, cells: list[int]) -> None:
    if cells:
        asm.emit(op.LD_IMM, value)
    for cell in cells:
        asm.emit(op.ST, cell)


def _need(asm: Assembler, length: int, otherwise: Label) -> None:
    asm.emit(op.LD_LEN)
    asm.jump(op.JGE, length, false=otherwise)


def _one_of(asm: Assembler, values: tuple[int, ...], found: Label, otherwise: Label) -> None:
    for value in values[:-1]:
        asm.jump(op.JEQ, value, true=found)
    asm.jump(op.JEQ, values[-1], true=found, false=otherwise)


def _ethertype(asm: Assembler, networks: dict[int, Label], ready: Label, *, store: bool) -> None:
    """Walk the tags; to a network's label with its offset in X, to `ready` with anything else."""
    for tags in range(3):
        inner = Label()
        if tags == 2:  # the frame's second tag counts as one only without a tag in the metadata
            asm.emit(op.LD_W_ABS, op.VLAN_TAG_PRESENT)
            asm.jump(op.JEQ, 0, false=ready)
        offset = ETH_HEADER + 4 * tags
        _need(asm, offset, ready)
        asm.emit(op.LDX_IMM, offset)
        asm.emit(op.LD_H_ABS, offset - 2)
        if store:
            asm.emit(op.ST, Cell.ETHERTYPE)
        for ethertype, label in networks.items():
            asm.jump(op.JEQ, ethertype, true=label)
        if tags < 2:
            _one_of(asm, TPIDS, inner, ready)
        else:
            asm.goto(ready)
        asm.place(inner)


def _kernels_ethertype(asm: Assembler, networks: dict[int, Label], ready: Label, *, store: bool) -> None:
    """The same where there is no Ethernet header, and so no tag."""
    guess, known = Label(), Label()
    asm.emit(op.LDX_IMM, 0)
    asm.emit(op.LD_W_ABS, op.PROTOCOL)
    asm.jump(op.JGE, FIRST_ETHERTYPE, false=guess)
    _one_of(asm, TPIDS, guess, known)
    asm.place(guess)
    _need(asm, 1, ready)
    for version, ethertype in VERSIONS.items():
        other = Label()
        asm.emit(op.LD_B_IND, 0)
        asm.emit(op.AND, 0xF0)
        asm.jump(op.JEQ, version << 4, false=other)
        asm.emit(op.LD_IMM, ethertype)
        asm.goto(known)
        asm.place(other)
    asm.emit(op.LD_IMM, 0)
    asm.place(known)
    if store:
        asm.emit(op.ST, Cell.ETHERTYPE)
    for ethertype, label in networks.items():
        asm.jump(op.JEQ, ethertype, true=label)
    asm.goto(ready)


def _ipv4(asm: Assembler, needs: frozenset[int], transport: Label, ready: Label) -> None:
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
    if Cell.FAMILY in needs:
        _store(asm, 4, [Cell.FAMILY])
    if Cell.PROTOCOL in needs:
        asm.emit(op.LD_B_IND, 9)
        asm.emit(op.ST, Cell.PROTOCOL)
    if Cell.DSCP in needs:  # RFC 2474, 3: the first six bits of the second byte
        asm.emit(op.LD_B_IND, 1)
        _dscp(asm, 0xFC, DSCP_SHIFT - 2)
    for cell, offset in ((Cell.SOURCE, 12), (Cell.DESTINATION, 16)):
        if cell in needs:
            asm.emit(op.LD_W_IND, offset)
            asm.emit(op.ST, cell)
    if needs & _TRANSPORT:
        asm.emit(op.LD_H_IND, 6)
        asm.jump(op.JSET, 0x1FFF, true=ready)  # a later fragment
        asm.emit(op.LD_B_IND, 0)
        asm.emit(op.AND, 15)
        asm.emit(op.LSH, 2)
        asm.emit(op.ADD_X)
        asm.emit(op.TAX)
        asm.goto(transport)
    else:
        asm.goto(ready)


def _dscp(asm: Assembler, mask: int, shift: int) -> None:
    """Keep the six bits of A that are under the mask."""
    asm.emit(op.AND, mask)
    asm.emit(op.LSH, shift)
    asm.emit(op.ADD, DSCP_KNOWN << DSCP_SHIFT)
    asm.emit(op.ST, Cell.BITS)


def _ipv6(asm: Assembler, needs: frozenset[int], transport: Label, ready: Label) -> None:
    """RFC 8200, 3 and 4; X is the header's offset. While the walk lasts, PROTOCOL is the next header."""
    _version(asm, 6, 40, ready)
    if Cell.FAMILY in needs:
        _store(asm, 6, [Cell.FAMILY])
    if Cell.DSCP in needs:  # behind the version, RFC 8200, 3
        asm.emit(op.LD_H_IND, 0)
        _dscp(asm, 0x0FC0, DSCP_SHIFT - 6)
    for cell in sorted(needs):
        if Cell.SOURCE <= cell < Cell.DIRECTION:
            asm.emit(op.LD_W_IND, 8 + 4 * (cell - Cell.SOURCE))
            asm.emit(op.ST, cell)
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
    _one_of(asm, extensions, hidden, part)
    asm.place(part)
    asm.emit(op.ST, Cell.PROTOCOL)
    asm.goto(ready)
    asm.place(cut)  # no extension header can follow here: one that is announced hides the protocol
    asm.emit(op.LD_MEM, Cell.PROTOCOL)
    _one_of(asm, extensions, hidden, found)
    asm.place(hidden)
    _store(asm, NONE, [Cell.PROTOCOL])
    asm.goto(ready)
    asm.place(found)
    asm.goto(transport if needs & _TRANSPORT else ready)


def _extension(asm: Assembler, later: Label, cut: Label, found: Label) -> None:
    """Step over one extension header at X; to `found` where there is none."""
    options, authentication, fragment, step = Label(), Label(), Label(), Label()
    asm.emit(op.LD_LEN)
    asm.emit(op.SUB, 8)
    asm.jump(op.JGE_X, false=cut)
    asm.emit(op.LD_MEM, Cell.PROTOCOL)
    asm.jump(op.JEQ, IPV6_FRAGMENT, true=fragment)
    asm.jump(op.JEQ, IPV6_AUTHENTICATION, true=authentication)
    _one_of(asm, IPV6_OPTIONS, options, found)
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


def _transport(asm: Assembler, asked: frozenset[int], ready: Label) -> None:
    """X is the transport header's offset. Falls through, or goes to `ready`."""
    icmp, ported = Label(), Label()
    asm.emit(op.LD_MEM, Cell.PROTOCOL)
    if asked & _ICMP:
        for protocol in ICMP_PROTOCOLS:
            asm.jump(op.JEQ, protocol, true=icmp)
    if asked & _PORTS:
        _one_of(asm, PORT_PROTOCOLS, ported, ready)
        asm.place(ported)
        _ports(asm, ready)
        if Cell.TCP_FLAGS in asked:
            asm.emit(op.LD_MEM, Cell.PROTOCOL)
    if Cell.TCP_FLAGS in asked:
        asm.jump(op.JEQ, IPPROTO_TCP, false=ready)
        _flags(asm, ready)
    if asked & _ICMP:
        asm.goto(ready)
    asm.place(icmp)
    for cell, offset in ((Cell.ICMP_TYPE, 0), (Cell.ICMP_CODE, 1)):  # RFC 792, RFC 4443 2.1
        if cell in asked:
            _reaches(asm, offset + 1, ready)
            asm.emit(op.LD_B_IND, offset)
            asm.emit(op.ADD, ICMP_KNOWN)
            asm.emit(op.ST, STORED[cell])


def _ports(asm: Assembler, ready: Label) -> None:
    """RFC 9293, 768, 9260."""
    _reaches(asm, 4, ready)
    asm.emit(op.LD_H_IND, 0)
    asm.emit(op.ST, Cell.SOURCE_PORT)
    asm.emit(op.LD_H_IND, 2)
    asm.emit(op.ST, Cell.DESTINATION_PORT)


def _flags(asm: Assembler, ready: Label) -> None:
    """RFC 9293, 3.1. X is lost."""
    _reaches(asm, TCP_FLAGS + 1, ready)
    asm.emit(op.LD_B_IND, TCP_FLAGS)
    asm.emit(op.ADD, FLAGS_KNOWN)
    asm.emit(op.LDX_MEM, Cell.BITS)
    asm.emit(op.ADD_X)
    asm.emit(op.ST, Cell.BITS)


def _reaches(asm: Assembler, length: int, otherwise: Label) -> None:
    """Falls through where the frame has so many bytes from X on."""
    asm.emit(op.LD_LEN)
    asm.emit(op.SUB, length)
    asm.jump(op.JGE_X, false=otherwise)
