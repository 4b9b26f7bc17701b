"""What is wanted of several devices, as one program for a socket that is on all devices of its network namespace.

The program begins with the device's index (SKF_AD_IFINDEX, Documentation/networking/filter.rst): a tree of comparisons,
whose leaves are runs of indexes of which the same is wanted. So a frame of a device that nobody mirrors costs some
comparisons, and 200 devices that were made one after the other and are mirrored alike take two. What is wanted of a
device is then asked by the program that its own socket would have, once for all devices of which it is the same.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import WORD, Assembler, Label, Program
from mirrord.dataplane.filter.bpf import attach_program
from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.filter.several import COARSER, compile_selections

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
    asm, reject = Assembler(), Label()
    runs: list[tuple[int, Label]] = [(0, reject)]  # from which index on, and where to go
    labels: dict[_Group, Label] = {}
    after = 0
    for device, group in by_device(wanted).items():
        if device != after and runs[-1][1] is not reject:
            runs.append((after, reject))
        label = labels.setdefault(group, Label())
        if runs[-1][1] is not label:
            runs.append((device, label))
        after = device + 1
    if runs[-1][1] is not reject and after <= WORD:
        runs.append((after, reject))
    asm.emit(op.LD_W_ABS, op.IFINDEX)
    _choose(asm, runs)
    for group, label in labels.items():
        asm.place(label)
        asm.include(compile_selections(group, pvid=pvid))
    asm.place(reject)
    asm.emit(op.RET, 0)
    return asm.program()


def _choose(asm: Assembler, runs: Sequence[tuple[int, Label]]) -> None:
    if len(runs) == 1:
        asm.goto(runs[0][1])
        return
    middle, upper = len(runs) // 2, Label()
    asm.jump(op.JGE, runs[middle][0], true=upper)
    _choose(asm, runs[:middle])
    asm.place(upper)
    _choose(asm, runs[middle:])


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
