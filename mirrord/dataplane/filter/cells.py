"""What a program's tests ask of a frame, and how each of it gets into the accumulator.

The kernel gives a program sixteen scratch cells (linux/filter.h, BPF_MEMWORDS). bpf_headers fills those that hold
something of the headers; where two share one, what a test asks is a part of it. The rest is loaded when it is asked.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import WORD, Assembler, Label
from mirrord.protocols import ETH_HEADER, TPIDS

NONE = WORD  # no tag, no protocol, no port


class Cell(enum.IntEnum):
    """What can be asked; below 16 it is the scratch cell that holds it.

    Addresses take four, an IPv4 address the first of them. A MAC address is asked in two parts, of 32 and 16 bits.
    """

    VLAN = 0
    ETHERTYPE = 1
    FAMILY = 2
    PROTOCOL = 3
    SOURCE_PORT = 4
    DESTINATION_PORT = 5
    BITS = 6  # of the DSCP and the TCP flags
    END = 7  # while headers are read: of the header at hand; then free
    SOURCE = 8
    DESTINATION = 12
    DIRECTION = 16  # the kernel's packet type
    LENGTH = 17
    SOURCE_MAC = 18
    SOURCE_MAC_END = 19
    DESTINATION_MAC = 20
    DESTINATION_MAC_END = 21
    DSCP = 22
    TCP_FLAGS = 23  # under a mask: see flags
    ICMP_TYPE = 24
    ICMP_CODE = 25


STORED: Mapping[int, int] = {
    Cell.DSCP: Cell.BITS,
    Cell.TCP_FLAGS: Cell.BITS,
    Cell.ICMP_TYPE: Cell.SOURCE_PORT,
    Cell.ICMP_CODE: Cell.DESTINATION_PORT,
}
"""Where what shares a cell is."""

OF_BESIDE = {
    Cell.DIRECTION,
    Cell.LENGTH,
    Cell.SOURCE_MAC,
    Cell.SOURCE_MAC_END,
    Cell.DESTINATION_MAC,
    Cell.DESTINATION_MAC_END,
}
"""What is in no scratch cell."""

OF_ANY_FRAME = {Cell.VLAN, Cell.ETHERTYPE, *OF_BESIDE}  # the rest is of IPv4 and IPv6 only

# No frame without them has these bits, whatever else shares the cell.
FLAGS_KNOWN = 0x100
DSCP_SHIFT, DSCP_KNOWN, DSCP_MASK = 16, 0x40, 0x7F
ICMP_KNOWN = 0x10000  # no port is as high
_MASK_SHIFT = 8
_TAG = 4  # bytes
_MACS: Mapping[int, int] = {
    Cell.SOURCE_MAC: 6,
    Cell.SOURCE_MAC_END: 10,
    Cell.DESTINATION_MAC: 0,
    Cell.DESTINATION_MAC_END: 4,
}  # offsets in the Ethernet header


def flags(mask: int) -> int:
    """What asks for some of the TCP flags alone: a range of it holds the flags under this mask, and FLAGS_KNOWN."""
    return Cell.TCP_FLAGS | (mask | FLAGS_KNOWN) << _MASK_SHIFT


def kind(asked: int) -> int:
    """The Cell that is asked, whatever the mask."""
    return asked & (1 << _MASK_SHIFT) - 1


def load(asm: Assembler, asked: int, loaded: int | None) -> None:
    """Have it in A, where `loaded` is already. X may be lost."""
    if asked == loaded:
        return
    match kind(asked):
        case Cell.DIRECTION:
            asm.emit(op.LD_W_ABS, op.PKTTYPE)
        case Cell.LENGTH if asm.raw:
            asm.emit(op.LD_LEN)
            asm.emit(op.ADD, ETH_HEADER)
        case Cell.LENGTH if asm.pvid:
            _length_with_tag(asm)
        case Cell.LENGTH:  # a tag that the kernel took off is four bytes more
            asm.emit(op.LD_W_ABS, op.VLAN_TAG_PRESENT)
            asm.emit(op.LSH, 2)
            asm.emit(op.TAX)
            asm.emit(op.LD_LEN)
            asm.emit(op.ADD_X)
        case Cell.SOURCE_MAC | Cell.SOURCE_MAC_END | Cell.DESTINATION_MAC | Cell.DESTINATION_MAC_END as part:
            _mac(asm, part)
        case Cell.DSCP:
            asm.emit(op.LD_MEM, Cell.BITS)
            asm.emit(op.AND, DSCP_MASK << DSCP_SHIFT)
        case Cell.TCP_FLAGS:
            asm.emit(op.LD_MEM, Cell.BITS)
            asm.emit(op.AND, asked >> _MASK_SHIFT)
        case Cell.ICMP_TYPE | Cell.ICMP_CODE as part:
            asm.emit(op.LD_MEM, STORED[part])
        case cell:
            asm.emit(op.LD_MEM, cell)


def _length_with_tag(asm: Assembler) -> None:
    """The same where every frame has a tag: in its bytes, or four bytes more."""
    beside, inside, done = Label(), Label(), Label()
    asm.emit(op.LD_W_ABS, op.VLAN_TAG_PRESENT)
    asm.jump(op.JEQ, 0, false=beside)
    asm.emit(op.LD_LEN)
    asm.jump(op.JGE, ETH_HEADER + _TAG, false=beside)
    asm.emit(op.LD_H_ABS, ETH_HEADER - 2)
    for tpid in TPIDS:
        asm.jump(op.JEQ, tpid, true=inside)
    asm.place(beside)
    asm.emit(op.LD_LEN)
    asm.emit(op.ADD, _TAG)
    asm.goto(done)
    asm.place(inside)
    asm.emit(op.LD_LEN)
    asm.place(done)


def _mac(asm: Assembler, part: int) -> None:
    """A part of an address. Of a frame without one NONE, which 16 bits never are: no test of both parts holds."""
    if asm.raw:
        asm.emit(op.LD_IMM, 0)
        return
    absent, done = Label(), Label()
    asm.emit(op.LD_LEN)
    asm.jump(op.JGE, ETH_HEADER, false=absent)
    asm.emit(op.LD_W_ABS if part in (Cell.SOURCE_MAC, Cell.DESTINATION_MAC) else op.LD_H_ABS, _MACS[part])
    asm.goto(done)
    asm.place(absent)
    asm.emit(op.LD_IMM, NONE)
    asm.place(done)
