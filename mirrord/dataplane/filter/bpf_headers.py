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
from mirrord.dataplane.filter.bpf_ip import (
    PORTS,
    TRANSPORT,
    Header,
    fill,
    one_of,
    read_ipv4,
    read_ipv6,
    read_transport,
    read_usual_ipv4,
    read_usual_ipv6,
)
from mirrord.dataplane.filter.cells import NONE, OF_BESIDE, STORED, Cell
from mirrord.dataplane.frame.without_ethernet import FIRST_ETHERTYPE, VERSIONS
from mirrord.protocols import ETH_HEADER, ETH_P_IP, ETH_P_IPV6, TPIDS

_NUMBERS = {Cell.PROTOCOL, *PORTS}
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
        fill(asm, NONE, [Cell.VLAN])
        return
    tagged, untagged, in_frame, known, done = Label(), Label(), Label(), Label(), Label()
    asm.emit(op.LD_W_ABS, op.VLAN_TAG_PRESENT)
    asm.jump(op.JEQ, 0, true=in_frame)
    asm.emit(op.LD_W_ABS, op.VLAN_TAG)
    asm.goto(known)
    asm.place(in_frame)
    _need(asm, ETH_HEADER + 4, untagged)
    asm.emit(op.LD_H_ABS, ETH_HEADER - 2)
    one_of(asm, TPIDS, tagged, untagged)
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
    fill(asm, NONE, absent)
    fill(asm, 0, [cell for cell in wanted if cell not in absent])
    transport, ready = Label(), Label()
    ipv4, ipv6 = (Ways(Label(), Label()) if cells else None for cells in (of_ipv4, of_ipv6))
    networks = {ethertype: ways for ethertype, ways in ((ETH_P_IP, ipv4), (ETH_P_IPV6, ipv6)) if ways}
    find_network = _kernels_ethertype if asm.raw else _ethertype
    find_network(asm, networks, ready, store=Cell.ETHERTYPE in wanted)
    first = Header(asm, 0 if asm.raw else ETH_HEADER)
    if ipv4:
        asm.place(ipv4.usual)
        read_usual_ipv4(first, of_ipv4, ipv4.any, ready)
    if ipv6:
        asm.place(ipv6.usual)
        read_usual_ipv6(first, of_ipv6, ipv6.any, ready)
    if ipv4:
        asm.place(ipv4.any)
        read_ipv4(asm, of_ipv4, transport, ready)
    if ipv6:
        asm.place(ipv6.any)
        read_ipv6(asm, of_ipv6, transport, ready)
    asm.place(transport)
    if asked & TRANSPORT:
        read_transport(Header(asm), asked, ready)
    asm.place(ready)


class Ways(NamedTuple):
    """Where to go on with an IP header that is the first behind the link's, and with one whose offset is in X."""

    usual: Label
    any: Label


def _with_protocol(cells: frozenset[int]) -> frozenset[int]:
    return cells | {Cell.PROTOCOL} if cells & TRANSPORT else cells


def _need(asm: Assembler, length: int, otherwise: Label) -> None:
    asm.emit(op.LD_LEN)
    asm.jump(op.JGE, length, false=otherwise)


def _ethertype(asm: Assembler, networks: dict[int, Ways], ready: Label, *, store: bool) -> None:
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
        for ethertype, ways in networks.items():
            asm.jump(op.JEQ, ethertype, true=ways.any if tags else ways.usual)
        if tags < 2:
            one_of(asm, TPIDS, inner, ready)
        else:
            asm.goto(ready)
        asm.place(inner)


def _kernels_ethertype(asm: Assembler, networks: dict[int, Ways], ready: Label, *, store: bool) -> None:
    """The same where there is no Ethernet header, and so no tag."""
    guess, known = Label(), Label()
    asm.emit(op.LDX_IMM, 0)
    asm.emit(op.LD_W_ABS, op.PROTOCOL)
    asm.jump(op.JGE, FIRST_ETHERTYPE, false=guess)
    one_of(asm, TPIDS, guess, known)
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
    for ethertype, ways in networks.items():
        asm.jump(op.JEQ, ethertype, true=ways.usual)
    asm.goto(ready)
