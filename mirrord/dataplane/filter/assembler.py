"""Classic BPF: the instructions that mirrord's programs use, and an assembler with labels.

The machine is the kernel's (Documentation/networking/filter.rst): 32-bit A and X, sixteen scratch cells, forward jumps
only. A conditional jump reaches 255 instructions; the assembler bridges more with unconditional ones, which reach 2^32.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

LD_IMM, LD_MEM, LD_LEN = 0x00, 0x60, 0x80
LD_W_ABS, LD_H_ABS, LD_B_ABS = 0x20, 0x28, 0x30
LD_W_IND, LD_H_IND, LD_B_IND = 0x40, 0x48, 0x50
LDX_IMM, LDX_MEM = 0x01, 0x61
ST = 0x02
ADD, ADD_X, SUB, SUB_X, MUL, AND, LSH, RSH, XOR_X = 0x04, 0x0C, 0x14, 0x1C, 0x24, 0x54, 0x64, 0x74, 0xAC
JA, JEQ, JGT, JGE, JGE_X, JSET = 0x05, 0x15, 0x25, 0x35, 0x3D, 0x45
RET, RET_A = 0x06, 0x16
TAX, TXA, STX = 0x07, 0x87, 0x03

# linux/filter.h: SKF_AD_OFF plus SKF_AD_*, absolute loads of what lies beside the bytes.
PROTOCOL = 0xFFFFF000
PKTTYPE = 0xFFFFF004
IFINDEX = 0xFFFFF008
MARK = 0xFFFFF014
VLAN_TAG = 0xFFFFF02C
VLAN_TAG_PRESENT = 0xFFFFF030
VLAN_TPID = 0xFFFFF03C

CELLS = 16
WORD = 0xFFFFFFFF
_REACH = 255

_INSTRUCTION = struct.Struct("=HBBI")


class Instruction(NamedTuple):
    """struct sock_filter of linux/filter.h."""

    code: int
    jt: int = 0
    jf: int = 0
    k: int = 0


Program = tuple[Instruction, ...]


@lru_cache(maxsize=64)  # a host's sessions have few different ones
def pack(program: Program) -> bytes:
    """The program as the kernel and the native core read it: an array of struct sock_filter, in host byte order."""
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)


class Label:
    """A place in a program, told apart by identity."""


class _Jump(NamedTuple):
    code: int
    k: int
    true: Label | None  # None: the next instruction
    false: Label | None


class Assembler:
    """Collects instructions, jumps and labels in order; `program` resolves them.

    `raw`: what the program is for begins with its network header, see frame/without_ethernet.py. `pvid`: what has no
    tag there is of this VLAN, see frame/port_vlan.py; 0: of none.
    """

    def __init__(self, *, raw: bool = False, pvid: int = 0) -> None:
        self.raw, self.pvid = raw, pvid
        self._items: list[Instruction | _Jump | Label] = []

    def emit(self, code: int, k: int = 0) -> None:
        """Append one instruction that does not jump."""
        self._items.append(Instruction(code, k=k))

    def include(self, program: Program) -> None:
        """Append a whole program."""
        self._items += program

    def jump(self, code: int, k: int = 0, *, true: Label | None = None, false: Label | None = None) -> None:
        """Compare A with k (or X); where an outcome has no label, the next instruction follows."""
        self._items.append(_Jump(code, k, true, false))

    def goto(self, label: Label) -> None:
        """Jump always."""
        self._items.append(_Jump(JA, 0, label, None))

    def place(self, label: Label) -> None:
        """Place the label before the next instruction."""
        self._items.append(label)

    def program(self) -> Program:
        """Resolve all labels. KeyError for one never placed, ValueError for one placed before a jump to it."""
        bridged: dict[int, frozenset[Label]] = {}
        while True:
            places, starts = self._layout(bridged)
            # A bridge only ever moves code apart: one once needed stays needed, and this ends.
            longer = {
                n: far
                for n, item in enumerate(self._items)
                if isinstance(item, _Jump) and (far := _far(item, starts[n], places)) != bridged.get(n, frozenset())
            }
            if not longer:
                break
            bridged |= longer
        program: list[Instruction] = []
        for n, item in enumerate(self._items):
            if isinstance(item, Instruction):
                program.append(item)
            elif isinstance(item, _Jump):
                program += _resolve(item, starts[n], places, bridged.get(n, frozenset()))
        return tuple(program)

    def _layout(self, bridged: dict[int, frozenset[Label]]) -> tuple[dict[Label, int], list[int]]:
        places: dict[Label, int] = {}
        starts: list[int] = []
        at = 0
        for n, item in enumerate(self._items):
            starts.append(at)
            if isinstance(item, Label):
                places[item] = at
            else:
                at += 1 + len(bridged.get(n, ()))
        return places, starts


def _far(jump: _Jump, start: int, places: dict[Label, int]) -> frozenset[Label]:
    """The targets of a conditional jump that one byte does not reach."""
    if jump.code == JA:
        return frozenset()
    targets = [label for label in (jump.true, jump.false) if label is not None]
    return frozenset(label for label in targets if places[label] - start - 1 > _REACH)


def _resolve(jump: _Jump, start: int, places: dict[Label, int], bridged: frozenset[Label]) -> list[Instruction]:
    bridges = [label for label in dict.fromkeys((jump.true, jump.false)) if label is not None and label in bridged]

    def offset(label: Label | None) -> int:
        if label is not None and label in bridges:
            return bridges.index(label)
        distance = len(bridges) if label is None else places[label] - start - 1
        if distance < 0:
            raise ValueError("classic BPF jumps forward only")
        return distance

    if jump.code == JA:
        return [Instruction(JA, k=offset(jump.true))]
    instructions = [Instruction(jump.code, offset(jump.true), offset(jump.false), jump.k)]
    for n, label in enumerate(bridges, start=1):
        instructions.append(Instruction(JA, k=places[label] - start - 1 - n))
    return instructions
