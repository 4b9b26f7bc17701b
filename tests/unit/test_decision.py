"""Programs made of branches, run by the kernel: the first branch that holds decides, in few steps.

A datagram holds the values of cells, 32 bits each, and a program begins with reading them into the cells. The kernel
keeps as many bytes of it as the program returns.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import WORD, Assembler, Label, Program
from mirrord.dataplane.filter.bpf import attach_program
from mirrord.dataplane.filter.cells import FLAGS_KNOWN, Cell, flags
from mirrord.dataplane.filter.decision import (
    _LOW_HALF,
    ACCEPT,
    FEW,
    Branch,
    Clause,
    Range,
    _groups,
    _Placed,
    ask,
    cut_of,
    decide,
    narrowed,
)
from tests.support.programs import Pair, steps

CELLS = [cell for cell in range(op.CELLS) if cell != Cell.END]
SIZE = 1 << 10  # bytes of a datagram, more than any result but ACCEPT

Values = Mapping[int, int]


def with_zeros(some: Values) -> Values:
    return {**dict.fromkeys(CELLS, 0), **some}


def first(branches: Sequence[Branch], values: Values, otherwise: int) -> int:
    """The definition: the result of the first branch all clauses of which hold, each by one of its alternatives."""
    for branch in branches:
        if all(any(all(held(test, values) for test in one) for one in clause) for clause in branch.clauses):
            return branch.result
    return otherwise


def held(test: Range, values: Values) -> bool:
    asked, mask = test.cell & 0xFF, test.cell >> 8
    value = values[Cell.BITS] & mask if asked == Cell.TCP_FLAGS else values[asked]
    return test.low <= value <= test.high


def program(branches: Sequence[Branch], otherwise: int) -> Program:
    asm = _read_cells()
    decide(asm, branches, otherwise)
    return asm.program()


def _read_cells() -> Assembler:
    asm = Assembler()
    for n, cell in enumerate(CELLS):
        asm.emit(op.LD_W_ABS, 4 * n)
        asm.emit(op.ST, cell)
    return asm


def datagram(values: Values) -> bytes:
    return struct.pack(f"!{len(CELLS)}I", *(values[cell] for cell in CELLS)).ljust(SIZE, b"\0")


def kept(pair: Pair, values: Values) -> int:
    """What the kernel's run of the program returned."""
    pair.near.send(datagram(values))
    try:
        length = len(pair.far.recv(SIZE))
    except BlockingIOError:
        return 0
    return ACCEPT if length == SIZE else length


def check(pair: Pair, branches: Sequence[Branch], otherwise: int, frames: Sequence[Values]) -> None:
    assert attach_program(pair.far, program(branches, otherwise))
    for values in frames:
        assert kept(pair, values) == first(branches, values, otherwise), values


def equal(cell: int, *values: int) -> Clause:
    return tuple((Range(cell, value, value),) for value in values)


def host(cell: int, number: int) -> Clause:
    """An IPv6 address, of four words."""
    return (tuple(Range(cell + n, word, word) for n, word in enumerate((0x20010DB8, 0, 0, number))),)


# --- any branches

_VALUES = st.sampled_from([0, 1, 2, 3, 80, 0xFFFF, 1 << 31, WORD])
_CELLS = st.sampled_from([
    Cell.PROTOCOL, Cell.SOURCE_PORT, Cell.DESTINATION_PORT, Cell.SOURCE, Cell.SOURCE + 1, Cell.DESTINATION,
    Cell.VLAN, flags(0x02), flags(0x12),
])  # fmt: skip
_RANGES = st.builds(lambda cell, a, b: Range(cell, min(a, b), max(a, b)), _CELLS, _VALUES, _VALUES)
_CLAUSES = st.lists(st.lists(_RANGES, min_size=1, max_size=2).map(tuple), min_size=1, max_size=4).map(tuple)
_FAMILIES = st.sampled_from([(), (4,), (6,), (4, 6)])


@st.composite
def _branches(draw: st.DrawFn) -> Branch:
    families, clauses = draw(_FAMILIES), draw(st.lists(_CLAUSES, max_size=3))
    if len(families) == 1:
        clauses.insert(0, equal(Cell.FAMILY, families[0]))
    return Branch(families, tuple(clauses), draw(st.sampled_from([0, ACCEPT])))


_FRAMES = st.fixed_dictionaries(dict.fromkeys(CELLS, _VALUES) | {Cell.FAMILY: st.sampled_from([4, 6])})


@settings(deadline=None, max_examples=60)
@given(
    branches=st.lists(_branches(), max_size=20),
    otherwise=st.sampled_from([0, ACCEPT]),
    frames=st.lists(_FRAMES, min_size=1, max_size=10),
)
def test_the_first_branch_that_holds_decides(
    pair: Pair, branches: list[Branch], otherwise: int, frames: list[Values]
) -> None:
    check(pair, branches, otherwise, frames)


@pytest.mark.parametrize("seed", range(4))
def test_so_it_does_among_hundreds(pair: Pair, seed: int) -> None:
    """Of kinds that are decided apart, in an order that makes one wait for another; by number in every other run."""
    random = Random(seed)

    def branch(n: int) -> Branch:
        family = random.choice([4, 6])
        about = {
            0: equal(Cell.DESTINATION_PORT, *random.sample(range(200), random.choice([1, 1, 3]))),
            1: equal(Cell.SOURCE_PORT, random.randrange(200)),
            2: host(Cell.DESTINATION, random.randrange(50)),
            3: ((Range(Cell.SOURCE, low := random.randrange(50), low + random.randrange(9)),),),
        }
        clauses = [about[kind] for kind in random.sample(range(4), random.choice([1, 1, 1, 2]))]
        if random.random() < 0.3:
            clauses.append(equal(flags(0x02), FLAGS_KNOWN | 0x02))
        if random.random() < 0.5:
            clauses.append(equal(Cell.PROTOCOL, random.choice([6, 17])))
        accepted = n + 1 if seed % 2 else ACCEPT
        result = 0 if random.random() < 0.4 else accepted
        return Branch((family,), (equal(Cell.FAMILY, family), *clauses), result)

    def frame() -> Values:
        return with_zeros(
            {
                Cell.FAMILY: random.choice([4, 6]),
                Cell.PROTOCOL: random.choice([6, 17, 1]),
                Cell.SOURCE: random.randrange(60),
                Cell.DESTINATION: 0x20010DB8,
                Cell.DESTINATION + 3: random.randrange(50),
                Cell.SOURCE_PORT: random.randrange(200),
                Cell.DESTINATION_PORT: random.randrange(200),
                Cell.BITS: random.choice([0, FLAGS_KNOWN, FLAGS_KNOWN | 0x12]),
            }
        )

    check(pair, [branch(n) for n in range(300)], 0, [frame() for _ in range(200)])


def test_what_never_holds_and_what_always_does() -> None:
    """A clause without alternatives holds for no frame, a branch without clauses for every one."""
    never, always = Branch((), ((),), ACCEPT), Branch((), (), ACCEPT)
    for branches, expected in (((never,), 0), ((never, always), ACCEPT), ((always, never), ACCEPT), ((), 0)):
        asm = Assembler()
        decide(asm, branches, 0)
        with_it = Pair()
        assert attach_program(with_it.far, asm.program())
        assert with_it.passes(b"any") == (expected == ACCEPT)
        with_it.close()


def test_a_result_may_go_on_elsewhere(pair: Pair) -> None:
    """Where `ends` says so, also after branches have waited for each other."""
    ports = [Branch((), (equal(Cell.DESTINATION_PORT, 2 * n),), 0 if n % 3 else ACCEPT) for n in range(4 * FEW)]
    hosts = [Branch((), (equal(Cell.SOURCE, n),), ACCEPT if n % 3 else 0) for n in range(4 * FEW)]
    branches = [one for both in zip(ports, hosts, strict=True) for one in both]
    asm, accepted, refused, none = _read_cells(), Label(), Label(), Label()
    decide(asm, branches, none, {ACCEPT: accepted, 0: refused})
    for label, result in ((accepted, 11), (refused, 12), (none, 13)):
        asm.place(label)
        asm.emit(op.RET, result)
    assert attach_program(pair.far, asm.program())
    ends = {ACCEPT: 11, 0: 12, 1: 13}
    for port in range(8 * FEW + 2):
        for source in range(4 * FEW + 1):
            values = with_zeros({Cell.DESTINATION_PORT: port, Cell.SOURCE: source})
            assert kept(pair, values) == ends[first(branches, values, 1)]


# --- few steps


@pytest.mark.parametrize("kind", ["ports", "hosts", "both"])
def test_a_thousand_branches_take_hardly_more_steps_than_ten(kind: str) -> None:
    def branch(n: int) -> Branch:
        port, address = equal(Cell.DESTINATION_PORT, 7 * n), host(Cell.DESTINATION, 5 * n)
        about = {"ports": (port,), "hosts": (address,), "both": (port,) if n % 2 else (address,)}[kind]
        return Branch((), about, 0 if n % 2 else ACCEPT)

    branches = [branch(n) for n in range(1000)]
    values = with_zeros({
        Cell.DESTINATION_PORT: 7 * 999, Cell.DESTINATION: 0x20010DB8, Cell.DESTINATION + 3: 5 * 998,
    })  # fmt: skip
    read = 2 * len(CELLS)
    many, few = (steps(program(some, 0), datagram(values)) - read for some in (branches, branches[-10:]))
    assert many <= 2 * few + 2 * FEW


def test_branches_that_differ_in_one_clause_become_one() -> None:
    """So a hundred ports of one protocol cost no more than a list of them in one branch."""
    tcp = equal(Cell.PROTOCOL, 6)
    apart = [Branch((), (tcp, equal(Cell.DESTINATION_PORT, 2 * n)), ACCEPT) for n in range(100)]
    together = Branch((), (tcp, equal(Cell.DESTINATION_PORT, *range(0, 200, 2))), ACCEPT)
    assert program(apart, 0) == program([together], 0)
    macs = [(Range(Cell.SOURCE_MAC, n, n), Range(Cell.SOURCE_MAC_END, 7, 7)) for n in range(100)]  # of two parts
    assert program([Branch((), ((mac,),), 0) for mac in macs], 0) == program([Branch((), (tuple(macs),), 0)], 0)


def test_a_cut_leaves_least_in_both_halves() -> None:
    branches = [Branch((), (equal(Cell.SOURCE_PORT, n),), ACCEPT) for n in range(16)]
    assert cut_of(branches, {}) == (Cell.SOURCE_PORT, 8)
    assert cut_of(branches, {Cell.SOURCE_PORT: (0, 7)}) is not None
    assert cut_of(branches[:FEW], {}) is None
    assert cut_of([Branch((), (equal(Cell.VLAN, 1),) * 9, ACCEPT)], {Cell.VLAN: (1, 1)}) is None  # nothing to cut


def test_what_a_cut_answers_is_not_asked_again() -> None:
    def between(low: int, high: int) -> Branch:
        return Branch((), (((Range(Cell.VLAN, low, high),),),), ACCEPT)

    wide = [between(5, 20)]
    assert narrowed(wide, Cell.VLAN, 0, 4) == []
    assert narrowed(wide, Cell.VLAN, 5, 20) == [Branch((), (), ACCEPT)]
    assert narrowed(wide, Cell.VLAN, 10, 30) == [between(0, 20)]
    assert narrowed(wide, Cell.VLAN, 0, 10) == [between(5, WORD)]


def test_more_branches_than_a_place_has_bits_for_are_one_group() -> None:
    one = Branch((), (equal(Cell.SOURCE_PORT, 1),), ACCEPT)
    placed = [_Placed(n, one) for n in range(_LOW_HALF + 1)]
    assert _groups(placed) == [placed]


@pytest.mark.parametrize(
    ("clause", "left"),
    [
        (((Range(Cell.VLAN, 3, 3),),), Cell.VLAN),
        (((Range(Cell.VLAN, 3, 9),), (Range(Cell.VLAN, 20, WORD),)), Cell.VLAN),
        (((Range(Cell.VLAN, 0, 9), Range(Cell.PROTOCOL, 6, 6)),), None),
        (((Range(Cell.VLAN, 0, 9),), (Range(Cell.PROTOCOL, 6, 6),)), None),
        ((), None),
    ],
)
def test_asking_tells_which_cell_is_loaded(pair: Pair, clause: Clause, left: int | None) -> None:
    asm, otherwise = _read_cells(), Label()
    assert ask(asm, clause, otherwise) == left
    asm.emit(op.RET, ACCEPT)
    asm.place(otherwise)
    asm.emit(op.RET, 0)
    assert attach_program(pair.far, asm.program())
    for vlan in (0, 3, 9, 10, 20, WORD):
        for protocol in (6, 17):
            values = with_zeros({Cell.VLAN: vlan, Cell.PROTOCOL: protocol})
            assert kept(pair, values) == first([Branch((), (clause,), ACCEPT)], values, 0)
