"""Branches -> a program that finds the first one that holds, in few steps where there are hundreds.

A branch is clauses that must all hold, and what to return then. A clause is a list of alternatives, an alternative a
list of ranges of cells. What is absent (no tag, no port) is NONE, which no range holds.

Three things keep the steps few. Branches that follow each other to the same result, and differ in one clause, become
one. What is left is put into groups that ask of the same cells, each group decided by itself; a branch of a later group
that would have come first is remembered in a cell. And a group is cut in two by a cell's value, again and again: each
half keeps only what can still hold there.

bench/rules.py measures what that is worth: of 1,000 rules the kernel runs 70 instructions, where asked one by one it
would be 5,000, in a program longer than it takes.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import WORD, Assembler, Label
from mirrord.dataplane.filter.cells import Cell, kind, load

ACCEPT = WORD
FEW = 4
"""So many alternatives are asked one after another, and a group of its own has at least twice as many branches."""

WORTH_A_CUT = 0.8
"""A cut must bring the squares of what is left in its halves below this share: it bounds what is in both of them."""

_GROUPED_BY = (
    Cell.DESTINATION,
    Cell.SOURCE,
    Cell.DESTINATION_PORT,
    Cell.SOURCE_PORT,
    Cell.DESTINATION_MAC,
    Cell.SOURCE_MAC,
)
"""What tells many rules apart: addresses and ports. In this order branches that differ in one of them become one."""

_BEST = Cell.END  # the headers have been read
_LOW_HALF = 0xFFFF
_NOWHERE: Mapping[int, Label] = {}


class Range(NamedTuple):
    """Values of a cell, inclusive."""

    cell: int
    low: int
    high: int


Alternative = tuple[Range, ...]
Clause = tuple[Alternative, ...]
Bounds = Mapping[int, tuple[int, int]]


class Branch(NamedTuple):
    """What to ask, and the result where all of it holds: 0, ACCEPT, or a number of at most 16 bits."""

    families: tuple[int, ...]  # whose headers it looks into
    clauses: tuple[Clause, ...]
    result: int


class _Placed(NamedTuple):
    """A branch and its place in the order in which they are tried."""

    place: int
    branch: Branch


def decide(
    asm: Assembler, branches: Sequence[Branch], otherwise: int | Label, ends: Mapping[int, Label] = _NOWHERE
) -> None:
    """Emit what ends the program with the result of the first branch that holds, or goes on where `ends` says.

    `otherwise`: the result, or where to go on, where none holds. Uses the scratch cell END.
    """
    groups = _groups([_Placed(n, branch) for n, branch in enumerate(_merged(branches))])
    stores = [_has_to_wait(group, groups[n + 1 :]) for n, group in enumerate(groups)]
    stores = [any(stores[: n + 1]) for n in range(len(stores))]  # what follows has to compare
    if any(stores):
        asm.emit(op.LD_IMM, WORD)
        asm.emit(op.ST, _BEST)
    for group, store in zip(groups, stores, strict=True):
        found, following = Label(), Label()

        def hit(placed: _Placed, *, store: bool = store, found: Label = found) -> None:
            if store:
                asm.emit(op.LD_IMM, placed.place << 16 | placed.branch.result & _LOW_HALF)
                asm.goto(found)
            else:
                _end(asm, ends.get(placed.branch.result, placed.branch.result))

        _Tree(asm, hit, following).emit(group, {}, None)
        if store:
            asm.place(found)
            asm.emit(op.LDX_MEM, _BEST)
            asm.jump(op.JGE_X, true=following)
            asm.emit(op.ST, _BEST)
        asm.place(following)
    if any(stores):
        _best(asm, branches, otherwise, ends)
    else:
        _end(asm, otherwise)


def _best(asm: Assembler, branches: Sequence[Branch], otherwise: int | Label, ends: Mapping[int, Label]) -> None:
    """End with the result of the branch that was remembered."""
    none, accept = Label(), Label()
    asm.emit(op.LD_MEM, _BEST)
    asm.jump(op.JEQ, WORD, true=none)
    if all(branch.result in (0, ACCEPT) for branch in branches):
        asm.jump(op.JSET, _LOW_HALF, true=accept)
        _end(asm, ends.get(0, 0))
        asm.place(accept)
        _end(asm, ends.get(ACCEPT, ACCEPT))
    else:
        asm.emit(op.AND, _LOW_HALF)
        asm.emit(op.RET_A)
    asm.place(none)
    _end(asm, otherwise)


def _end(asm: Assembler, end: int | Label) -> None:
    if isinstance(end, Label):
        asm.goto(end)
    else:
        asm.emit(op.RET, end)


# Fewer branches


def _merged(branches: Sequence[Branch]) -> Iterator[Branch]:
    """The same decisions by fewer branches: the order of those with the same result, one behind the other, is free."""
    for _, run in itertools.groupby(branches, lambda branch: branch.result):
        merged = list(run)
        for dimension in _GROUPED_BY:
            merged = _united(merged, dimension)
        yield from merged


def _united(branches: list[Branch], dimension: int) -> list[Branch]:
    """Branches that differ in their clause about this alone, as one."""
    united: dict[tuple[tuple[int, ...], tuple[Clause, ...], bool], dict[Alternative, None]] = {}
    for branch in branches:
        about = next((clause for clause in branch.clauses if _dimensions(clause) == {dimension}), ())
        rest = tuple(clause for clause in branch.clauses if not about or clause != about)
        united.setdefault((branch.families, rest, bool(about)), {}).update(dict.fromkeys(about))
    result = branches[0].result
    return [
        Branch(families, (*rest, tuple(alternatives)) if alternatives else rest, result)
        for (families, rest, _), alternatives in united.items()
    ]


def _dimensions(clause: Clause) -> set[int]:
    """What a clause is about: the parts of an address are one thing, and so are the flags under any masks."""
    return {_dimension(test.cell) for alternative in clause for test in alternative}


def _dimension(asked: int) -> int:
    cell = kind(asked)
    if Cell.SOURCE <= cell < Cell.DIRECTION:
        return Cell.SOURCE if cell < Cell.DESTINATION else Cell.DESTINATION
    if cell in (Cell.SOURCE_MAC_END, Cell.DESTINATION_MAC_END):
        return cell - 1
    return cell


# Groups


def _groups(placed: list[_Placed]) -> list[list[_Placed]]:
    """Branches by what they ask of addresses and ports; those with few of their kind are one group."""
    if len(placed) > _LOW_HALF:
        return [placed]
    kinds: dict[object, list[_Placed]] = defaultdict(list)
    for one in placed:
        asked = frozenset[int]().union(*map(_dimensions, one.branch.clauses)).intersection(_GROUPED_BY)
        kinds[one.branch.families, asked].append(one)
    groups = [
        kind for kind in kinds.values() if len(kind) >= 2 * FEW or _weight([one.branch for one in kind]) > 4 * FEW
    ]
    grouped = {one.place for group in groups for one in group}
    groups.append([one for one in placed if one.place not in grouped])
    return sorted(filter(None, groups), key=lambda group: group[0].place)


def _has_to_wait(group: list[_Placed], later: list[list[_Placed]]) -> bool:
    """Whether a branch of a later group may come before one of this group, to another result."""
    last = group[-1]
    unlike = next((one for one in reversed(group) if one.branch.result != last.branch.result), None)
    for others in later:
        if _apart(_families(group), _families(others)):
            continue
        for other in others:
            rival = last if other.branch.result != last.branch.result else unlike
            if rival is not None and other.place < rival.place:
                return True
    return False


def _families(group: list[_Placed]) -> set[int]:
    """The only IP versions that a group's branches hold for; empty: any frame."""
    each = [set(one.branch.families) for one in group]
    return set[int]().union(*each) if all(each) else set()


def _apart(families: set[int], others: set[int]) -> bool:
    return bool(families and others) and not families & others


def _weight(branches: Sequence[Branch]) -> int:
    return sum(len(clause) for one in branches for clause in one.clauses)


# One group


class _Tree:
    """Emits the decision of one group: `hit` emits what a branch that holds leads to; `miss` is where none does."""

    def __init__(self, asm: Assembler, hit: Callable[[_Placed], None], miss: Label) -> None:
        self._asm, self._hit, self._miss = asm, hit, miss

    def emit(self, group: list[_Placed], bounds: Bounds, loaded: int | None) -> None:
        """`bounds`: what the way here tells of the cells. `loaded`: the cell in A."""
        first = next((n for n, one in enumerate(group) if not one.branch.clauses), len(group))
        group = group[: first + 1]  # it has nothing left to ask: no other gets its turn
        if not first or not group:
            return self._hit(group[0]) if group else self._asm.goto(self._miss)
        shared = _shared(group)
        if shared is not None:
            loaded = ask(self._asm, shared, self._miss, loaded)
            return self.emit([_without(one, shared) for one in group], bounds, loaded)
        cut = cut_of([one.branch for one in group], bounds)
        if cut is None:
            self._one_by_one(group, 0, loaded)
            return self._asm.goto(self._miss)
        cell, value = cut
        right = Label()
        load(self._asm, cell, loaded)
        self._asm.jump(op.JGE, value, true=right)
        low, high = bounds.get(cell, (0, WORD))
        self.emit(_narrowed(group, cell, low, value - 1), {**bounds, cell: (low, value - 1)}, cell)
        self._asm.place(right)
        return self.emit(_narrowed(group, cell, value, high), {**bounds, cell: (value, high)}, cell)

    def _one_by_one(self, group: list[_Placed], depth: int, loaded: int | None) -> None:
        """Try each branch in turn; those that share their next clause, in one go. Falls through where none holds."""
        for clause, sharing in itertools.groupby(group, lambda one: one.branch.clauses[depth : depth + 1]):
            if not clause:
                return self._hit(next(sharing))
            other = Label()
            inside = ask(self._asm, clause[0], other, loaded)
            self._one_by_one(list(sharing), depth + 1, inside)
            self._asm.place(other)
            loaded = None
        return None


def _shared(group: list[_Placed]) -> Clause | None:
    """A clause that all of several branches have, and that is soon asked."""
    if len(group) == 1:
        return None
    candidates = [clause for clause in group[0].branch.clauses if len(clause) <= FEW // 2]
    return next((one for one in candidates if all(one in other.branch.clauses for other in group)), None)


def _without(one: _Placed, clause: Clause) -> _Placed:
    clauses = tuple(other for other in one.branch.clauses if other != clause)
    return one._replace(branch=one.branch._replace(clauses=clauses))


def cut_of(branches: Sequence[Branch], bounds: Bounds) -> tuple[int, int] | None:
    """The cell, and the value from which on it is the right half, that leave least to ask; None where it is little."""
    total = _weight(branches)
    if total <= FEW:
        return None
    cells = {test.cell for one in branches for clause in one.clauses for ranges in clause for test in ranges}
    best, found = WORTH_A_CUT * total * total, None
    for cell in sorted(cells):
        low, high = bounds.get(cell, (0, WORD))
        spans = [span for one in branches for span in _spans(one, cell)]
        lows, highs = _summed((low, weight) for low, _, weight in spans), _summed((high, w) for _, high, w in spans)
        values = {value for first, last, _ in spans for value in (first, last + 1) if low < value <= high}
        for value in sorted(values):
            left, right = _below(lows, value), total - _below(highs, value)
            if left * left + right * right < best:
                best, found = left * left + right * right, (cell, value)
    return found


def _spans(branch: Branch, cell: int) -> Iterator[tuple[int, int, int]]:
    """Where in a cell's values the branch may hold, and what there is to ask there: (first, last, alternatives)."""
    low, high, elsewhere = 0, WORD, 0
    for clause in branch.clauses:
        ranges = [test for alternative in clause for test in alternative if test.cell == cell]
        elsewhere += len(clause) - len(ranges)
        if len(ranges) == len(clause):
            low, high = max(low, min(test.low for test in ranges)), min(high, max(test.high for test in ranges))
        yield from ((test.low, test.high, 1) for test in ranges)
    yield low, high, elsewhere


_Sums = tuple[list[int], list[int]]


def _summed(weights: Iterator[tuple[int, int]]) -> _Sums:
    ordered = sorted(weights)
    return [value for value, _ in ordered], list(itertools.accumulate((w for _, w in ordered), initial=0))


def _below(sums: _Sums, value: int) -> int:
    return sums[1][bisect_left(sums[0], value)]


def narrowed(branches: Sequence[Branch], cell: int, low: int, high: int) -> list[Branch]:
    """What can still hold where the cell is in these bounds, without what they answer."""
    left = []
    for one in branches:
        clauses = _narrow(one.clauses, cell, low, high)
        if clauses is not None:
            left.append(one._replace(clauses=clauses))
    return left


def _narrowed(group: list[_Placed], cell: int, low: int, high: int) -> list[_Placed]:
    return [one._replace(branch=branch) for one in group for branch in narrowed([one.branch], cell, low, high)]


def _narrow(clauses: tuple[Clause, ...], cell: int, low: int, high: int) -> tuple[Clause, ...] | None:
    left: list[Clause] = []
    for clause in clauses:
        alternatives = []
        for alternative in clause:
            tests = []
            for test in alternative:
                if test.cell != cell:
                    tests.append(test)
                    continue
                if test.low > high or test.high < low:
                    break
                first, last = test.low if test.low > low else 0, test.high if test.high < high else WORD
                if (first, last) != (0, WORD):
                    tests.append(Range(cell, first, last))
            else:
                alternatives.append(tuple(tests))
        if not alternatives:
            return None
        if all(alternatives):  # else one has nothing left to ask: it holds
            left.append(tuple(alternatives))
    return tuple(left)


# Asking


def ask(asm: Assembler, clause: Clause, otherwise: Label, loaded: int | None = None) -> int | None:
    """Fall through where one of the clause's alternatives holds; gives the cell that is then in A, if it is known.

    `loaded`: the cell that is in A before.
    """
    holds = Label()
    for n, alternative in enumerate(clause, start=1):
        last = n == len(clause)
        following = otherwise if last else Label()
        for m, test in enumerate(alternative, start=1):
            load(asm, test.cell, loaded)
            loaded = test.cell
            _range(asm, test, None if last or m < len(alternative) else holds, following)
        if len({test.cell for test in alternative}) > 1:
            loaded = None  # it may have failed at any of them
        if not last:
            asm.place(following)
    if not clause:
        asm.goto(otherwise)
    asm.place(holds)
    return loaded if len({test.cell for alternative in clause for test in alternative}) == 1 else None


def _range(asm: Assembler, test: Range, holds: Label | None, otherwise: Label) -> None:
    if test.low == test.high:
        asm.jump(op.JEQ, test.low, true=holds, false=otherwise)
    elif test.high == WORD:
        asm.jump(op.JGE, test.low, true=holds, false=otherwise)
    else:
        if test.low:
            asm.jump(op.JGE, test.low, false=otherwise)
        asm.jump(op.JGT, test.high, true=otherwise, false=holds)
