"""Which of several workers a frame is for: a hash of its addresses, in classic BPF, run by the kernel.

Everything between two addresses comes to the same worker, in both directions: every protocol and port, and every
fragment, which has no ports to go by. So it stays in order. What is not IP goes by its MAC addresses; ARP is one
worker's, since a question is for everyone and its answer for one.

Between a ring and its socket's filter a frame begins with its Ethernet header. Here it does only where the host sends
it; one that came in begins behind that header, or behind the tag that the kernel took off (net/core/dev.c:
dev_queue_xmit_nit, __netif_receive_skb_core). A frame too short for what it says that it is goes to the first worker.
"""

from __future__ import annotations

from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import Assembler, Label, Program
from mirrord.kernel import PACKET_OUTGOING
from mirrord.protocols import ETH_HEADER, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, TPIDS

MOST_TAGS = 4  # in the bytes of the frame

_LINK = 0xFFE00000  # linux/filter.h: SKF_LL_OFF, offsets from the MAC header

# Odd numbers of no structure: the one of Fibonacci hashing, and two of MurmurHash3 (Austin Appleby, public domain).
_FOLD, _MIX, _FINISH = 0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35

# Scratch cells.
_ONE, _OTHER, _AT = 0, 1, 2


def by_addresses(*, raw: bool = False) -> Program:
    """Gives a 32-bit number, the same for both directions; the kernel divides it by the number of workers.

    `raw`: for a device without Ethernet, where a frame begins with its network header whatever way it goes.
    """
    asm = Assembler()
    ipv4, ipv6, hashed = Label(), Label(), Label()
    _find_network(asm, {ETH_P_IP: ipv4, ETH_P_IPV6: ipv6}, raw=raw)
    asm.emit(op.LD_W_ABS, _LINK + 2)  # the last four bytes of each MAC address
    asm.emit(op.ST, _ONE)
    asm.emit(op.LD_W_ABS, _LINK + 8)
    asm.emit(op.ST, _OTHER)
    asm.goto(hashed)
    asm.place(ipv4)
    for cell, offset in ((_ONE, 12), (_OTHER, 16)):
        asm.emit(op.LD_W_IND, offset)
        asm.emit(op.ST, cell)
    asm.goto(hashed)
    asm.place(ipv6)
    asm.emit(op.STX, _AT)
    for cell, offset in ((_ONE, 8), (_OTHER, 24)):
        _fold(asm, cell, offset)
    asm.place(hashed)
    _mix(asm)
    return asm.program()


def _find_network(asm: Assembler, networks: dict[int, Label], *, raw: bool) -> None:
    """Go to the label of the ethertype behind all tags, with its offset in X; fall through with any other."""
    received, walk, other = Label(), Label(), Label()
    if not raw:
        asm.emit(op.LD_W_ABS, op.PKTTYPE)
        asm.jump(op.JEQ, PACKET_OUTGOING, false=received)
        asm.emit(op.LDX_IMM, ETH_HEADER)
        asm.emit(op.LD_H_ABS, ETH_HEADER - 2)
        asm.goto(walk)
    asm.place(received)
    asm.emit(op.LDX_IMM, 0)
    asm.emit(op.LD_W_ABS, op.PROTOCOL)
    asm.place(walk)
    for tags in range(MOST_TAGS + 1):
        for ethertype, label in networks.items():
            asm.jump(op.JEQ, ethertype, true=label)
        if tags == MOST_TAGS:
            break
        tagged = Label()
        for tpid in TPIDS:
            asm.jump(op.JEQ, tpid, true=tagged)
        asm.goto(other)
        asm.place(tagged)
        asm.emit(op.LD_H_IND, 2)
        asm.emit(op.ST, _ONE)
        asm.emit(op.TXA)
        asm.emit(op.ADD, 4)
        asm.emit(op.TAX)
        asm.emit(op.LD_MEM, _ONE)
    asm.place(other)
    rest = Label()
    asm.jump(op.JEQ, ETH_P_ARP, false=rest)
    asm.emit(op.RET, 0)
    asm.place(rest)


def _fold(asm: Assembler, cell: int, offset: int) -> None:
    """An IPv6 address at `offset` from what _AT says, into 32 bits."""
    for word in range(4):
        asm.emit(op.LDX_MEM, _AT)
        asm.emit(op.LD_W_IND, offset + 4 * word)
        if word:
            asm.emit(op.LDX_MEM, cell)
            asm.emit(op.ADD_X)
        asm.emit(op.MUL, _FOLD)
        asm.emit(op.ST, cell)


def _mix(asm: Assembler) -> None:
    """Sum and exclusive or of the two, which do not tell their order, and then every bit into many others."""
    asm.emit(op.LD_MEM, _ONE)
    asm.emit(op.LDX_MEM, _OTHER)
    asm.emit(op.XOR_X)
    asm.emit(op.MUL, _FOLD)
    asm.emit(op.ADD_X)
    asm.emit(op.LDX_MEM, _ONE)
    asm.emit(op.ADD_X)
    for multiplier, shift in ((_MIX, 15), (_FINISH, 13)):
        asm.emit(op.MUL, multiplier)
        asm.emit(op.TAX)
        asm.emit(op.RSH, shift)
        asm.emit(op.XOR_X)
    asm.emit(op.RET_A)
