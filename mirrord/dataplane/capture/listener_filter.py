"""Which packets a listener takes, as a classic BPF program on its raw IP socket.

Such a socket shows IPv4 packets from the IP header on, IPv6 ones from the transport header on; addresses are read
relative to the network header (SKF_NET_OFF), which is the same for both. What is too short to tell whose it is passes,
so that it is counted as malformed.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses
from typing import TYPE_CHECKING

from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import WORD, Assembler, Label, Program
from mirrord.dataplane.forward.decap import (
    ERSPAN_II_HEADER,
    ERSPAN_SESSION,
    GRE_CHECKSUM,
    GRE_DISCARD,
    TZSP_HEADER,
    TZSP_TO_SEND,
    VXLAN_HEADER,
)
from mirrord.dataplane.forward.encap import GRE_KEY, GRE_SEQUENCE, VXLAN_FLAGS
from mirrord.plans import Tunnel
from mirrord.protocols import ETH_P_ERSPAN, ETH_P_ERSPAN_III, ETH_P_TEB, GRE_HEADER, UDP_HEADER

if TYPE_CHECKING:
    from collections.abc import Sequence

NETWORK_HEADER = 0xFFF00000  # linux/filter.h: SKF_NET_OFF
GRE_VERSION = 0x0007


def compile_listener(
    tunnel: Tunnel,
    version: int,
    port: int,
    ident: int | None,
    allow: Sequence[IPv4Network | IPv6Network],
    elsewhere: Sequence[IPv4Address | IPv6Address] = (),
) -> Program:
    """The program for packets of IP `version`. `ident` is the VNI, key or session id; None: any, and none at all.

    `allow` lists the senders, if not all; `elsewhere` addresses of this host that are other listeners'.
    """
    asm, reject, accept = Assembler(), Label(), Label()
    asm.emit(op.LDX_IMM, 0)
    if version == 4:
        asm.emit(op.LD_B_IND, 0)
        asm.emit(op.AND, 15)
        asm.emit(op.LSH, 2)
        asm.emit(op.TAX)
    for address in elsewhere:
        _not_to(asm, address, reject)
    if allow:
        _allowed(asm, allow, reject)
    if tunnel.udp:
        asm.emit(op.LD_H_IND, 2)
        asm.jump(op.JEQ, port, false=reject)
    if tunnel is Tunnel.TZSP:
        _tzsp(asm, accept, reject)
    elif tunnel.udp:
        _vni(asm, tunnel, ident, accept, reject)
    else:
        _gre(asm, tunnel, ident, accept, reject)
    asm.place(accept)
    asm.emit(op.RET, WORD)
    asm.place(reject)
    asm.emit(op.RET, 0)
    return asm.program()


def _not_to(asm: Assembler, address: IPv4Address | IPv6Address, reject: Label) -> None:
    other, destination = Label(), NETWORK_HEADER + (16 if address.version == 4 else 24)
    *words, last = range(0, address.max_prefixlen // 8, 4)
    for at in (*words, last):
        asm.emit(op.LD_W_ABS, destination + at)
        word = int.from_bytes(address.packed[at : at + 4], "big")
        if at == last:
            asm.jump(op.JEQ, word, true=reject)
        else:
            asm.jump(op.JEQ, word, false=other)
    asm.place(other)


def _allowed(asm: Assembler, allow: Sequence[IPv4Network | IPv6Network], reject: Label) -> None:
    allowed = Label()
    networks: list[IPv4Network | IPv6Network] = [
        *collapse_addresses(one for one in allow if isinstance(one, IPv4Network)),
        *collapse_addresses(one for one in allow if isinstance(one, IPv6Network)),
    ]
    for network in networks:
        other, source = Label(), NETWORK_HEADER + (12 if network.version == 4 else 8)
        for at in range(0, network.max_prefixlen // 8, 4):
            mask = int.from_bytes(network.netmask.packed[at : at + 4], "big")
            if mask:
                asm.emit(op.LD_W_ABS, source + at)
                asm.emit(op.AND, mask)
                asm.jump(op.JEQ, int.from_bytes(network.network_address.packed[at : at + 4], "big"), false=other)
        asm.goto(allowed)
        asm.place(other)
    asm.goto(reject)
    asm.place(allowed)


def _vni(asm: Assembler, tunnel: Tunnel, vni: int | None, accept: Label, reject: Label) -> None:
    """VXLAN and Geneve have it in the same place."""
    if vni is None:
        return
    _have(asm, UDP_HEADER + VXLAN_HEADER, accept)
    if tunnel is Tunnel.VXLAN:
        asm.emit(op.LD_B_IND, UDP_HEADER)
        asm.jump(op.JSET, VXLAN_FLAGS, false=accept)
    asm.emit(op.LD_W_IND, UDP_HEADER + 4)
    asm.emit(op.AND, 0xFFFFFF00)
    asm.jump(op.JEQ, vni << 8, false=reject)


def _tzsp(asm: Assembler, accept: Label, reject: Label) -> None:
    """Of its types the first two carry frames; another keeps a firewall's port open."""
    _have(asm, UDP_HEADER + TZSP_HEADER, accept)
    asm.emit(op.LD_B_IND, UDP_HEADER + 1)
    asm.jump(op.JGT, TZSP_TO_SEND, true=reject)


def _gre(asm: Assembler, tunnel: Tunnel, ident: int | None, accept: Label, reject: Label) -> None:
    ours = Label()
    asm.emit(op.LD_H_IND, 2)
    if tunnel is Tunnel.GRE:
        asm.jump(op.JEQ, ETH_P_TEB, false=reject)
    else:
        asm.jump(op.JEQ, ETH_P_ERSPAN_III, true=ours)
        asm.jump(op.JEQ, ETH_P_ERSPAN, false=reject)
        if ident is not None:  # type I, without a sequence number, carries no session id
            asm.emit(op.LD_H_IND, 0)
            asm.jump(op.JSET, GRE_SEQUENCE, false=reject)
    asm.place(ours)
    asm.emit(op.LD_H_IND, 0)
    asm.jump(op.JSET, GRE_VERSION, true=reject)  # PPTP's
    if ident is None:
        return
    asm.jump(op.JSET, GRE_DISCARD & ~GRE_VERSION, true=accept)  # no telling where its key would be
    asm.emit(op.ST, 0)
    _skip(asm, GRE_CHECKSUM)
    if tunnel is Tunnel.GRE:
        asm.emit(op.LD_MEM, 0)
        asm.jump(op.JSET, GRE_KEY, false=reject)
        _have(asm, GRE_HEADER + 4, accept)
        asm.emit(op.LD_W_IND, GRE_HEADER)
    else:
        _skip(asm, GRE_KEY)
        _skip(asm, GRE_SEQUENCE)
        _have(asm, GRE_HEADER + ERSPAN_II_HEADER, accept)
        asm.emit(op.LD_W_IND, GRE_HEADER)
        asm.emit(op.AND, ERSPAN_SESSION)
    asm.jump(op.JEQ, ident, false=reject)


def _skip(asm: Assembler, bit: int) -> None:
    """Move X over an optional field of GRE where the flags, kept in cell 0, have its bit."""
    absent = Label()
    asm.emit(op.LD_MEM, 0)
    asm.jump(op.JSET, bit, false=absent)
    asm.emit(op.LD_IMM, 4)
    asm.emit(op.ADD_X)
    asm.emit(op.TAX)
    asm.place(absent)


def _have(asm: Assembler, length: int, otherwise: Label) -> None:
    """Leave for `otherwise` where fewer bytes than this follow X."""
    asm.emit(op.LD_LEN)
    asm.emit(op.SUB_X)
    asm.jump(op.JSET, 0x80000000, true=otherwise)
    asm.jump(op.JGE, length, false=otherwise)
