"""What several selections of one source take together, and which of them may want a frame.

The kernel runs one program for all: `compile_selections`. Userspace then has to know whose a frame is. The matcher of
each selection has the last word, but to ask each of many takes long, and nearly all say no: so `compile_sets` gives a
program that reads the frame's headers once, and by the values of its fields reduces the set of candidates. It never
leaves out one that wants the frame.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import WORD, Assembler, Label, Program
from mirrord.dataplane.filter.bpf import (
    Door,
    attach_program,
    bare,
    branch_of,
    coarsen,
    compile_selection,
    decide_one,
    direction_clause,
    families_of,
    leave_with,
    needs_of,
    needs_of_one,
    rules_of,
    runs,
)
from mirrord.dataplane.filter.bpf_headers import Needs, read
from mirrord.dataplane.filter.cells import Cell, load
from mirrord.dataplane.filter.decision import ACCEPT, Bounds, Branch, Clause, Range, cut_of, decide, narrowed
from mirrord.dataplane.filter.rules import Direction, Selection

MOST = 1 << 16
"""Members of all sets together. Where it would take more, everybody is asked about everything."""


class Parts(NamedTuple):
    """The parts of a program, in the order in which a frame comes by them."""

    door: Door
    needs: Needs  # what is read of the headers; more may be
    decision: Program  # which ends it


@lru_cache(maxsize=512)
def compile_selections(selections: tuple[Selection, ...], *, raw: bool = False, pvid: int = 0) -> Program:
    """The program that takes a frame which any of these selections wants, as compile_selection's takes one's.

    What asks the same of all is asked first. Selections that only ever accept then become one decision, whose cost does
    not grow with their number where ports, protocols, prefixes or tags tell them apart; the others follow one by one.
    """
    selections = _without_covered(selections)
    if len(selections) == 1:
        return compile_selection(selections[0], raw=raw, pvid=pvid)
    parts = parts_of(selections, raw=raw, pvid=pvid)
    asm, reject = Assembler(raw=raw, pvid=pvid), Label()
    parts.door.refuse_others(asm, reject)
    read(asm, parts.needs)
    asm.include(parts.decision)
    asm.place(reject)
    asm.emit(op.RET, 0)
    return asm.program()


@lru_cache(maxsize=4096)
def parts_of(selections: tuple[Selection, ...], *, raw: bool = False, pvid: int = 0) -> Parts:
    """The same program in parts, for one that reads the headers for several decisions."""
    selections = _without_covered(selections)
    first = selections[0]
    asm = Assembler(raw=raw, pvid=pvid)
    if len(selections) == 1:
        decide_one(asm, first)
        return Parts(Door(first.direction, first.mark, first.mark_mask), needs_of_one(first), asm.program())
    door = Door(_all_directions(selections), first.mark, first.mark_mask)
    if len({(one.mark, one.mark_mask) for one in selections}) == 1:
        selections = tuple(replace(one, mark_mask=0) for one in selections)
    else:
        door = door._replace(mark_mask=0)
    needs = _decide_any(asm, selections, door.direction)
    return Parts(door, needs, asm.program())


def _decide_any(asm: Assembler, selections: tuple[Selection, ...], direction: Direction) -> Needs:
    """End the program for a frame of this direction. Gives what has to be read before."""
    plain = [branch for one in selections if _is_plain(one) for branch in _plain(one, direction)]
    others = [one for one in selections if not _is_plain(one)]
    accept = Label()
    if plain:
        unlike = Label()
        decide(asm, plain, unlike)
        asm.place(unlike)
    for one in others:
        following = Label()
        for earlier in one.before:
            if both := earlier.direction & direction:
                leave_with(asm, replace(earlier, direction=both), direction, following)
        leave_with(asm, one, direction, accept)
        asm.place(following)
    asm.emit(op.RET, 0)
    asm.place(accept)
    asm.emit(op.RET, ACCEPT)
    asked = [one for other in others for one in (other, *other.before)]
    rest = [branch for one in asked for branch in rules_of(one)]
    return needs_of([*plain, *rest], tagged=any(one.vlans is not None for one in asked))


def _all_directions(selections: tuple[Selection, ...]) -> Direction:
    direction = Direction(0)
    for one in selections:
        direction |= one.direction
    return direction


def _without_covered(selections: tuple[Selection, ...]) -> tuple[Selection, ...]:
    """The same with less to ask: what comes before one of them is wanted all the same if it is another one. And where
    one wants all that any may, it is alone.
    """
    alone = {replace(one, before=()) for one in selections if not one.before}
    selections = tuple(
        replace(one, before=tuple(earlier for earlier in one.before if earlier not in alone)) for one in selections
    )
    direction = _all_directions(selections)
    for one in selections:
        everything = one.rules is None and one.vlans is None and not one.before and one.direction == direction
        alike = all((one.mark, one.mark_mask) == (other.mark, other.mark_mask) for other in selections)
        if everything and alike:
            return (one,)
    return tuple(dict.fromkeys(selections))


def _is_plain(one: Selection) -> bool:
    """Whether it is the sum of what its rules accept."""
    rules = one.rules or ()
    return not (one.mark_mask or one.before) and all(rule.accept for rule in rules)


def _plain(one: Selection, direction: Direction, result: int = ACCEPT) -> list[Branch]:
    """Branches for what a selection accepts, less what it rejects, of frames of this direction."""
    if one.vlans is not None and not one.vlans:
        return []
    every: list[Clause] = []
    if one.vlans is not None:
        every.append(tuple((Range(Cell.VLAN, low, high),) for low, high in runs(one.vlans)))
    if one.rules is None:
        turned = [direction_clause(one.direction)] if direction & ~one.direction else []
        return [Branch((), (*every, *turned), result)]
    return [
        branch._replace(clauses=(*every, *branch.clauses))
        for rule in one.rules
        if rule.accept and rule.direction & one.direction
        for turned_rule in [replace(rule, direction=rule.direction & one.direction)]
        for branch in (branch_of(turned_rule, direction, families, result) for families in families_of(turned_rule))
    ]


# Having the kernel run it

COARSER: tuple[Callable[[Selection], Selection], ...] = (
    lambda one: one,
    lambda one: replace(one, before=()),
    lambda one: coarsen(one, addresses=True),
    coarsen,
    bare,
)
"""What may be attached in a selection's place, the most exact first."""


def attach(sock: socket.socket, *selections: Selection, raw: bool = False, pvid: int = 0) -> bool:
    """Have the kernel take what any of these selects, in place of any filter that the socket has. True: exactly that.

    False: more than that, because the program is longer than the kernel takes; who reads the socket must match exactly.
    Besides MAX_INSTRUCTIONS, net.core.optmem_max bounds it (ENOMEM). OSError where size is not the question.

    `raw`, `pvid`: of what device the socket is, as an Assembler has them.
    """
    tried: list[tuple[Selection, ...]] = []
    for coarse in COARSER:
        candidate = tuple(dict.fromkeys(map(coarse, selections)))
        if candidate in tried:
            continue
        tried.append(candidate)
        if attach_program(sock, compile_selections(candidate, raw=raw, pvid=pvid)):
            return len(tried) == 1
    raise OSError(errno.ENOMEM, "net.core.optmem_max leaves no room for any socket filter")


# Whose a frame is


class Candidate(NamedTuple):
    """A selection by its place, and whether it wants the frame for certain: then its matcher has nothing to ask."""

    place: int
    certain: bool


class Sets(NamedTuple):
    """A program that gives the number of a set, and the sets. 0: any of them may want the frame."""

    program: Program
    sets: tuple[tuple[Candidate, ...], ...]


@lru_cache(maxsize=512)
def compile_sets(selections: tuple[Selection, ...]) -> Sets:
    """Which of these may want a frame. The mark is not asked for: only the kernel sees it."""
    everybody = tuple(Candidate(n, certain=False) for n in range(len(selections)))
    left = tuple(replace(one, mark_mask=0) for one in selections)
    branches = [branch for n, one in enumerate(left) for branch in _plain(one, Direction.BOTH, n)]
    asm = Assembler()
    read(asm, needs_of(branches))
    tree = _SetTree(asm, everybody, {n for n, one in enumerate(left) if _is_plain(one)})
    try:
        tree.emit(branches, {}, None)
    except OverflowError:
        return Sets((op.Instruction(op.RET, k=0),), (everybody,))
    return Sets(asm.program(), tuple(tree.sets))


class _SetTree:
    """Emits cuts of cells' values until little is left to ask, and there the set of those whose branches are left."""

    def __init__(self, asm: Assembler, everybody: tuple[Candidate, ...], plain: set[int]) -> None:
        self.sets: dict[tuple[Candidate, ...], int] = {everybody: 0}
        self._asm, self._plain, self._room = asm, plain, MOST

    def number(self, members: tuple[Candidate, ...]) -> int:
        if members not in self.sets:
            self._room -= len(members)
            if self._room < 0:
                raise OverflowError
            self.sets[members] = len(self.sets)
        return self.sets[members]

    def emit(self, branches: Sequence[Branch], bounds: Bounds, loaded: int | None) -> None:
        held = {one.result for one in branches if not one.clauses} & self._plain
        asked = [one for one in branches if one.clauses and one.result not in held]
        cut = cut_of(asked, bounds)
        if cut is None:
            left = sorted({one.result for one in branches})
            self._asm.emit(op.RET, self.number(tuple(Candidate(n, n in held) for n in left)))
            return
        (cell, value), right = cut, Label()
        load(self._asm, cell, loaded)
        self._asm.jump(op.JGE, value, true=right)
        low, high = bounds.get(cell, (0, WORD))
        branches = [one for one in branches if not one.clauses or one.result not in held]
        self.emit(narrowed(branches, cell, low, value - 1), {**bounds, cell: (low, value - 1)}, cell)
        self._asm.place(right)
        self.emit(narrowed(branches, cell, value, high), {**bounds, cell: (value, high)}, cell)
