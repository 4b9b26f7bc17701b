"""What is wanted of several devices, as one program for a socket that is on all devices of its network namespace.

The program begins with the device's index (SKF_AD_IFINDEX, Documentation/networking/filter.rst): a tree of comparisons,
whose leaves are runs of indexes of which the same is wanted. So a frame of a device that nobody mirrors costs some
comparisons, and 200 devices that were made one after the other and are mirrored alike take two. Of the others' frames
the headers are read, once for all that any device's filters ask, which takes some 350 instructions (a usual frame runs
30 of them). Then a second tree leads to what decides about the device's frames, once for all devices of which the same
is wanted: a filter more is some 10 instructions, and some 4 a device that tell it from its neighbours.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import WORD, Assembler, Label, Program
from mirrord.dataplane.filter.bpf import Door, attach_program
from mirrord.dataplane.filter.bpf_headers import Needs, read, together
from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.filter.several import COARSER, parts_of

if TYPE_CHECKING:
    import socket


class Wanted(NamedTuple):
    """What is wanted of one device."""

    device: int  # its index
    selection: Selection


Asked = tuple[Wanted, ...]


def asked(wanted: Iterable[tuple[int, Selection]]) -> Asked:
    """What is wanted of devices, each once. Most of a device's selections are one object: they are not compared."""
    each = {(device, id(selection)): Wanted(device, selection) for device, selection in wanted}
    return tuple(dict.fromkeys(each.values()))


_Group = tuple[Selection, ...]


def by_device(wanted: Sequence[Wanted]) -> dict[int, _Group]:
    """The different selections of each device, ascending by its index."""
    groups: dict[int, dict[Selection, None]] = {}
    for device, selection in wanted:
        groups.setdefault(device, {})[selection] = None
    return {device: tuple(groups[device]) for device in sorted(groups)}


@lru_cache(maxsize=64)
def compile_wanted(wanted: Asked, *, pvid: int = 0) -> Program:
    """The program that takes a frame of one of these devices which is wanted of it, and no frame of another device."""
    groups = by_device(wanted)
    parts = {group: parts_of(group, pvid=pvid) for group in groups.values()}
    headers, reject = Label(), Label()
    doors: dict[tuple[Door, Label], Label] = {}  # each by what is behind it
    knowing: dict[Program, Label] = {}  # decisions by what has been read
    others: dict[Program, Label] = {}
    enter, decide = {}, {}  # where each device's frames go to; those whose headers are read, then
    for device, group in groups.items():
        one = parts[group]
        if one.needs == Needs():
            behind = others.setdefault(one.decision, Label())
        else:
            behind, decide[device] = headers, knowing.setdefault(one.decision, Label())
        enter[device] = doors.setdefault((one.door, behind), Label())
    asm = Assembler(pvid=pvid)
    _choose(asm, _runs(enter, reject))
    for (door, behind), label in doors.items():
        asm.place(label)
        door.refuse_others(asm, reject)
        asm.goto(behind)
    if decide:
        asm.place(headers)
        read(asm, together(one.needs for one in parts.values()))
        _choose(asm, _runs(decide))
    # The kernel takes what follows a return for what may come after it, and refuses it if it loads a cell that was not
    # stored before the return.
    for program, label in (*knowing.items(), *others.items()):
        asm.place(label)
        asm.include(program)
    asm.place(reject)
    asm.emit(op.RET, 0)
    return asm.program()


_Runs = list[tuple[int, Label]]  # from which index on, and where to go


def _runs(ways: Mapping[int, Label], elsewhere: Label | None = None) -> _Runs:
    """Devices that follow each other and go the same way, as one. `elsewhere`: for all others; None: there are none."""
    runs: _Runs = [(0, elsewhere)] if elsewhere else []
    after = 0
    for device, label in ways.items():
        if elsewhere and device != after and runs[-1][1] is not elsewhere:
            runs.append((after, elsewhere))
        if not runs or runs[-1][1] is not label:
            runs.append((device, label))
        after = device + 1
    if elsewhere and runs[-1][1] is not elsewhere and after <= WORD:
        runs.append((after, elsewhere))
    return runs


def _choose(asm: Assembler, runs: _Runs) -> None:
    """Go where the frame's device is to go."""
    if len(runs) > 1:
        asm.emit(op.LD_W_ABS, op.IFINDEX)
    _cut(asm, runs)


def _cut(asm: Assembler, runs: _Runs) -> None:
    if len(runs) == 1:
        asm.goto(runs[0][1])
        return
    middle, upper = len(runs) // 2, Label()
    asm.jump(op.JGE, runs[middle][0], true=upper)
    _cut(asm, runs[:middle])
    asm.place(upper)
    _cut(asm, runs[middle:])


class Extent:
    """About how long such a program is; each device is taken for one without a neighbour."""

    def __init__(self) -> None:
        self.devices: set[int] = set()
        self._selections: set[Selection] = set()
        self._decisions, self._needs = 0, Needs()

    def add(self, device: int, selection: Selection) -> None:
        self.devices.add(device)
        if selection not in self._selections:
            self._selections.add(selection)
            parts = parts_of((selection,))
            self._decisions += len(parts.decision)
            self._needs = together([self._needs, parts.needs])

    @property
    def instructions(self) -> int:
        trees = 2 if self._needs != Needs() else 1
        return _TO_TELL * trees * len(self.devices) + _instructions_to_read(self._needs) + self._decisions


_TO_TELL = 4
"""Instructions that tell a device from those beside it."""


@lru_cache(maxsize=256)
def _instructions_to_read(needs: Needs) -> int:
    asm = Assembler()
    read(asm, needs)
    return len(asm.program())


def attach_wanted(sock: socket.socket, wanted: Asked, *, pvid: int = 0) -> bool:
    """Have the kernel take what is wanted of these devices, as several.attach does of one. True: exactly that.

    `pvid`: of all of these devices, as an Assembler has it.
    """
    tried: list[Asked] = []
    for coarse in COARSER:
        candidate = tuple(dict.fromkeys(Wanted(device, coarse(selection)) for device, selection in wanted))
        if candidate in tried:
            continue
        tried.append(candidate)
        if attach_program(sock, compile_wanted(candidate, pvid=pvid)):
            return len(tried) == 1
    raise OSError(errno.ENOMEM, "so many devices take a longer socket filter than net.core.optmem_max admits")
