"""headers.parse in classic BPF: what a program's tests need of the headers, read once into its scratch cells.

Exactly the same on every frame, cut and lying ones too. So every load is preceded by a check of the length: the kernel
ends a program that loads past the end.

`raw`: for the socket of a device without Ethernet, where a frame begins with its network header, and the kernel has its
ethertype beside it; see without_ethernet.py, which defines what is read then.
"""

from __future__ import annotations

import enum

from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import WORD, Assembler, Label
from mirrord.dataplane.frame.headers import (
    ETH_HEADER,
    ETH_P_IP,
    ETH_P_IPV6,
    IPV6_AUTHENTICATION,
    IPV6_FRAGMENT,
    IPV6_OPTIONS,
    MAX_EXTENSIONS,
    PORT_PROTOCOLS,
    TPIDS,
)
from mirrord.dataplane.frame.without_ethernet import FIRST_ETHERTYPE, VERSIONS

NONE = WORD  # no tag, no protocol, no port


class Cell(enum.IntEnum):
    """The scratch cells. Addresses take four, an IPv4 address the first of them."""

    VLAN = 0
    ETHERTYPE = 1
    FAMILY = 2
    PROTOCOL = 3
    SOURCE_PORT = 4
    DESTINATION_PORT = 5
    START = 6  # while headers are read: of the network header, or the last place where an extension header fits
    END = 7  # while headers are read: of the header at hand
    SOURCE = 8
    DESTINATION = 12
    DIRECTION = 16  # no cell but the kernel's packet type


OF_ANY_FRAME = {Cell.VLAN, Cell.ETHERTYPE, Cell.DIRECTION}  # the rest is of IPv4 and IPv6 only
_PORTS = {Cell.SOURCE_PORT, Cell.DESTINATION_PORT}
_NUMBERS = {Cell.PROTOCOL, *_PORTS}


def read_outer_vlan(asm: Assembler, *, raw: bool = False) -> None:
    """The id of the outermost tag: the kernel's metadata, else the frame's first."""
    if raw:
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
    asm.emit(op.LD_IMM, NONE)
    asm.goto(done)
    asm.place(tagged)
    asm.emit(op.LD_H_ABS, ETH_HEADER)
    asm.place(known)
    asm.emit(op.AND, 0xFFF)
    asm.place(done)
    asm.emit(op.ST, Cell.VLAN)


def read_headers(
    asm: Assembler, cells: set[int], ipv4_cells: set[int], ipv6_cells: set[int], *, raw: bool = False
) -> None:
    """Fill the cells asked of any frame, of IPv4 and of IPv6; ports bring their protocol. All but VLAN."""
    needs = {4: _with_protocol(ipv4_cells), 6: _with_protocol(ipv6_cells)}
    wanted = sorted((cells | needs[4] | needs[6]) - {Cell.VLAN, Cell.DIRECTION})
    if not wanted:
        return
    # The kernel refuses a program with a way to a cell on which nothing was stored.
    absent = [cell for cell in wanted if cell in _NUMBERS]
    _store(asm, NONE, absent)
    _store(asm, 0, [cell for cell in wanted if cell not in absent])
    ipv4, ipv6, ports, ready = Label(), Label(), Label(), Label()
    networks = {ETH_P_IP: ipv4} if needs[4] else {}
    networks |= {ETH_P_IPV6: ipv6} if needs[6] else {}
    find_network = _kernels_ethertype if raw else _ethertype
    find_network(asm, networks, ready, store=Cell.ETHERTYPE in wanted)
    if needs[4]:
        asm.place(ipv4)
        _ipv4(asm, needs[4], ports, ready)
    if needs[6]:
        asm.place(ipv6)
        _ipv6(asm, needs[6], ports, ready)
    asm.place(ports)
    if _PORTS & set(wanted):
        _ports(asm, ready)
    asm.place(ready)


def _with_protocol(cells: set[int]) -> set[int]:
    return cells | {Cell.PROTOCOL, *_PORTS} if cells & _PORTS else cells


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


def _ipv4(asm: Assembler, needs: set[int], ports: Label, ready: Label) -> None:
    """RFC 791, 3.1; X is the header's offset."""
    _version(asm, 4, 20, ready)
    asm.emit(op.STX, Cell.START)
    asm.emit(op.LD_B_IND, 0)
    asm.emit(op.AND, 15)
    asm.emit(op.LSH, 2)
    asm.jump(op.JGE, 20, false=ready)
    asm.emit(op.ADD_X)
    asm.emit(op.ST, Cell.END)
    asm.emit(op.TAX)
    asm.emit(op.LD_LEN)
    asm.jump(op.JGE_X, false=ready)
    asm.emit(op.LDX_MEM, Cell.START)
    if Cell.FAMILY in needs:
        _store(asm, 4, [Cell.FAMILY])
    if Cell.PROTOCOL in needs:
        asm.emit(op.LD_B_IND, 9)
        asm.emit(op.ST, Cell.PROTOCOL)
    for cell, offset in ((Cell.SOURCE, 12), (Cell.DESTINATION, 16)):
        if cell in needs:
            asm.emit(op.LD_W_IND, offset)
            asm.emit(op.ST, cell)
    if needs & _PORTS:
        asm.emit(op.LD_H_IND, 6)
        asm.jump(op.JSET, 0x1FFF, true=ready)  # a later fragment
        asm.emit(op.LDX_MEM, Cell.END)
        asm.goto(ports)
    else:
        asm.goto(ready)


def _ipv6(asm: Assembler, needs: set[int], ports: Label, ready: Label) -> None:
    """RFC 8200, 3 and 4; X is the header's offset. While the walk lasts, PROTOCOL is the next header."""
    _version(asm, 6, 40, ready)
    if Cell.FAMILY in needs:
        _store(asm, 6, [Cell.FAMILY])
    for cell in sorted(needs):
        if cell >= Cell.SOURCE:
            asm.emit(op.LD_W_IND, 8 + 4 * (cell - Cell.SOURCE))
            asm.emit(op.ST, cell)
    if Cell.PROTOCOL not in needs:
        asm.goto(ready)
        return
    later, part, cut, hidden, found = Label(), Label(), Label(), Label(), Label()
    extensions = (*IPV6_OPTIONS, IPV6_FRAGMENT, IPV6_AUTHENTICATION)
    asm.emit(op.LD_LEN)
    asm.emit(op.SUB, 8)
    asm.emit(op.ST, Cell.START)
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
    asm.goto(ports if needs & _PORTS else ready)


def _extension(asm: Assembler, later: Label, cut: Label, found: Label) -> None:
    """Step over one extension header at X; to `found` where there is none."""
    options, authentication, fragment, step = Label(), Label(), Label(), Label()
    asm.emit(op.LD_MEM, Cell.START)
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


def _ports(asm: Assembler, ready: Label) -> None:
    """RFC 9293, 768, 9260: X is the transport header's offset."""
    ported = Label()
    asm.emit(op.LD_MEM, Cell.PROTOCOL)
    _one_of(asm, PORT_PROTOCOLS, ported, ready)
    asm.place(ported)
    asm.emit(op.LD_LEN)
    asm.emit(op.SUB, 4)
    asm.jump(op.JGE_X, false=ready)
    asm.emit(op.LD_H_IND, 0)
    asm.emit(op.ST, Cell.SOURCE_PORT)
    asm.emit(op.LD_H_IND, 2)
    asm.emit(op.ST, Cell.DESTINATION_PORT)
