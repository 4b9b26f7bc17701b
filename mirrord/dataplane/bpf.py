"""A selection as a classic BPF program, for the kernel to run on a socket or for userspace to run exactly.

A program asks in this order: mark, direction, the source's tags, then guards, the selections that come before, and
rules. Before these, bpf_headers has it read what they need of the headers into the scratch cells, once.

A guard or rule becomes branches: clauses that must all hold, and what to return then. A clause is a list of
alternatives, an alternative a list of ranges of cells. What is absent (no tag, no port) is NONE, which no range holds.
Consecutive branches that begin with the same clauses share their tests.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import socket
import struct
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from mirrord.dataplane import assembler as op
from mirrord.dataplane.assembler import WORD, Assembler, Label, Program
from mirrord.dataplane.bpf_headers import LATER, OF_ANY_FRAME, Cell, read_headers, read_outer_vlan
from mirrord.dataplane.filter import Direction, Guard, Rule, Selection

ACCEPT = WORD
REJECT_ALL: Program = (op.Instruction(op.RET, k=0),)


MAX_INSTRUCTIONS = 4096  # linux/bpf_common.h, BPF_MAXINSNS
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_MAX_COARSE_RULES = 32
_NOWHERE: Mapping[int, Label] = {}


class _Range(NamedTuple):
    cell: int
    low: int
    high: int


_Alternative = tuple[_Range, ...]
_Clause = tuple[_Alternative, ...]


class _Branch(NamedTuple):
    families: tuple[int, ...]  # whose headers it looks into
    clauses: tuple[_Clause, ...]
    result: int


def compile_selection(selection: Selection, *, numbered: bool = False) -> Program:
    """The program that gives 0 for a frame not captured, 0xFFFFFFFF (keep all of it) for one that is.

    `numbered`: for a frame that a rule accepts, instead, that rule's place in `selection.rules`, from 1. The program
    may be longer than the kernel takes (4096 instructions); userspace runs any.
    """
    asm, reject = Assembler(), Label()
    _mark(asm, selection, reject)
    if selection.direction != Direction.BOTH:
        _clause(asm, _direction(selection.direction), reject)
    before = [_remaining(one, selection) for one in selection.before if one.direction & selection.direction]
    guards, rules = _guards(selection), _rules(selection, numbered=numbered)
    branches = [*guards, *rules, *(branch for one in before for branch in _guards(one) + _rules(one))]
    cells = _cells(branches)
    if Cell.VLAN in cells or any(one.vlans is not None for one in (selection, *before)):
        read_outer_vlan(asm)
    _vlans(asm, selection, reject)
    ipv4, ipv6 = ([branch for branch in branches if family in branch.families] for family in (4, 6))
    read_headers(asm, cells & OF_ANY_FRAME, _cells(ipv4) - OF_ANY_FRAME, _cells(ipv6) - OF_ANY_FRAME)
    _branches(asm, guards, 0)
    for one in before:
        _before(asm, one, selection.direction, reject)
    _branches(asm, rules, 0)
    asm.emit(op.RET, ACCEPT if selection.rules is None else 0)
    asm.place(reject)
    asm.emit(op.RET, 0)
    return asm.program()


def _remaining(one: Selection, selection: Selection) -> Selection:
    """What is left to ask of `one`, which comes before, where `selection` has asked for mark, direction and guards."""
    return replace(
        one,
        direction=one.direction & selection.direction,
        mark_mask=0 if (one.mark, one.mark_mask) == (selection.mark, selection.mark_mask) else one.mark_mask,
        guards=tuple(guard for guard in one.guards if guard not in selection.guards),
    )


def _before(asm: Assembler, one: Selection, direction: Direction, reject: Label) -> None:
    """Go to `reject` with what this selection accepts; fall through with the rest."""
    rest = Label()
    _mark(asm, one, rest)
    if one.direction != direction:
        _clause(asm, _direction(one.direction), rest)
    _vlans(asm, one, rest)
    ends = {0: rest, ACCEPT: reject}
    _branches(asm, _guards(one) + _rules(one), 0, ends)
    asm.goto(ends[ACCEPT if one.rules is None else 0])
    asm.place(rest)


def _vlans(asm: Assembler, selection: Selection, reject: Label) -> None:
    if selection.vlans is not None:
        _clause(asm, tuple((_Range(Cell.VLAN, low, high),) for low, high in _runs(selection.vlans)), reject)


def _mark(asm: Assembler, selection: Selection, reject: Label) -> None:
    if selection.mark_mask:
        asm.emit(op.LD_W_ABS, op.MARK)
        asm.emit(op.AND, selection.mark_mask)
        asm.jump(op.JEQ, selection.mark, true=reject)


def _cells(branches: list[_Branch]) -> set[int]:
    return {test.cell for branch in branches for clause in branch.clauses for ranges in clause for test in ranges}


# What guards and rules ask


def _guards(selection: Selection) -> list[_Branch]:
    return [_guard(guard) for guard in selection.guards]


def _guard(guard: Guard) -> _Branch:
    version, address = guard.address.version, guard.address
    clauses: list[_Clause] = [_equal(Cell.FAMILY, version), _equal(Cell.PROTOCOL, guard.protocol)]
    if not address.is_unspecified:
        clauses.append((_address(Cell.SOURCE, address), _address(Cell.DESTINATION, address)))
    if guard.port is not None:
        clauses.append((*_equal(Cell.DESTINATION_PORT, guard.port), *_equal(Cell.DESTINATION_PORT, LATER)))
    return _Branch((version,), tuple(clauses), 0)


def _rules(selection: Selection, *, numbered: bool = False) -> list[_Branch]:
    branches: list[_Branch] = []
    for number, rule in sorted(enumerate(selection.rules or (), start=1), key=lambda item: item[1].priority):
        if rule.direction & selection.direction:
            result = 0 if not rule.accept else number if numbered else ACCEPT
            branches += [_rule(rule, selection.direction, families, result) for families in _families(rule)]
    return branches


def _families(rule: Rule) -> list[tuple[int, ...]]:
    """One branch for each set: each family apart where addresses tell them apart, none where no IP field asks."""
    asked: list[set[int]] = [
        {network.version for network in networks} for networks in (rule.sources, rule.destinations)
    ]
    asked.append(set() if rule.family is None else {rule.family})
    if any(asked):
        return [(family,) for family in (4, 6) if all(not families or family in families for families in asked)]
    ported = rule.source_ports or rule.destination_ports
    return [(4, 6)] if rule.protocol is not None or ported else [()]


def _rule(rule: Rule, direction: Direction, families: tuple[int, ...], result: int) -> _Branch:
    clauses: list[_Clause] = []
    if len(families) == 1:
        clauses.append(_equal(Cell.FAMILY, families[0]))
    if rule.protocol is not None:
        clauses.append(_equal(Cell.PROTOCOL, rule.protocol))
    if direction & ~rule.direction:
        clauses.append(_direction(rule.direction))
    if rule.vlan is not None:
        clauses.append(_equal(Cell.VLAN, rule.vlan))
    if rule.ethertype is not None:
        clauses.append(_equal(Cell.ETHERTYPE, rule.ethertype))
    for cell, networks in ((Cell.SOURCE, rule.sources), (Cell.DESTINATION, rule.destinations)):
        clause = tuple(_network(cell, network) for network in networks if network.version in families)
        if all(clause):  # no ranges: any address
            clauses += [clause] if clause else []
    for cell, ports in ((Cell.SOURCE_PORT, rule.source_ports), (Cell.DESTINATION_PORT, rule.destination_ports)):
        if ports:
            clauses.append(tuple((_Range(cell, low, high),) for low, high in ports))
    return _Branch(families, tuple(clauses), result)


def _equal(cell: int, value: int) -> _Clause:
    return ((_Range(cell, value, value),),)


def _direction(direction: Direction) -> _Clause:
    if direction == Direction.EGRESS:
        return _equal(Cell.DIRECTION, op.PACKET_OUTGOING)
    before = _Range(Cell.DIRECTION, 0, op.PACKET_OUTGOING - 1)
    return ((before,), (_Range(Cell.DIRECTION, op.PACKET_OUTGOING + 1, WORD),))


def _address(cell: int, address: IPv4Address | IPv6Address) -> _Alternative:
    packed = address.packed
    words = [int.from_bytes(packed[at : at + 4], "big") for at in range(0, len(packed), 4)]
    return tuple(_Range(cell + n, word, word) for n, word in enumerate(words))


def _network(cell: int, network: IPv4Network | IPv6Network) -> _Alternative:
    first, last = _address(cell, network.network_address), _address(cell, network.broadcast_address)
    ranges = (_Range(low.cell, low.low, high.low) for low, high in zip(first, last, strict=True))
    return tuple(test for test in ranges if (test.low, test.high) != (0, WORD))


def _runs(numbers: frozenset[int]) -> list[tuple[int, int]]:
    """Numbers as inclusive ranges, ascending."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


# Asking


def _branches(asm: Assembler, branches: list[_Branch], depth: int, ends: Mapping[int, Label] = _NOWHERE) -> None:
    """Try each branch in turn; those that share their next clause, in one go. Falls through where none holds.

    A branch that holds ends the program with its result, or goes on where `ends` says.
    """
    for clause, group in itertools.groupby(branches, lambda branch: branch.clauses[depth : depth + 1]):
        sharing = list(group)
        if not clause:  # the first has nothing left to ask: no other gets its turn
            result = sharing[0].result
            if result in ends:
                asm.goto(ends[result])
            else:
                asm.emit(op.RET, result)
            return
        other = Label()
        _clause(asm, clause[0], other)
        _branches(asm, sharing, depth + 1, ends)
        asm.place(other)


def _clause(asm: Assembler, clause: _Clause, otherwise: Label) -> None:
    """Falls through where one of the alternatives holds."""
    holds, loaded = Label(), None
    for n, alternative in enumerate(clause, start=1):
        last = n == len(clause)
        following = otherwise if last else Label()
        for m, test in enumerate(alternative, start=1):
            if test.cell != loaded:
                asm.emit(*((op.LD_W_ABS, op.PKTTYPE) if test.cell == Cell.DIRECTION else (op.LD_MEM, test.cell)))
                loaded = test.cell
            _range(asm, test, None if last or m < len(alternative) else holds, following)
        if len({test.cell for test in alternative}) > 1:
            loaded = None  # it may have failed at any of them
        if not last:
            asm.place(following)
    if not clause:
        asm.goto(otherwise)
    asm.place(holds)


def _range(asm: Assembler, test: _Range, holds: Label | None, otherwise: Label) -> None:
    if test.low == test.high:
        asm.jump(op.JEQ, test.low, true=holds, false=otherwise)
    elif test.high == WORD:
        asm.jump(op.JGE, test.low, true=holds, false=otherwise)
    else:
        if test.low:
            asm.jump(op.JGE, test.low, false=otherwise)
        asm.jump(op.JGT, test.high, true=otherwise, false=holds)


# Having the kernel run it


def attach(sock: socket.socket, selection: Selection) -> bool:
    """Have the kernel filter a socket, in place of any filter it has. True: by exactly this selection.

    False: by a coarser one, because the program is longer than the kernel takes; who reads the socket must match
    exactly. Besides MAX_INSTRUCTIONS, net.core.optmem_max bounds it (ENOMEM). OSError where size is not the question.
    """
    for candidate in dict.fromkeys((selection, replace(selection, before=()), coarsen(selection), _bare(selection))):
        if attach_program(sock, compile_selection(candidate)):
            return candidate is selection
    raise OSError(errno.ENOMEM, "net.core.optmem_max leaves no room for any socket filter")


def attach_reject_all(sock: socket.socket) -> None:
    """Have the kernel keep every frame from a socket; what it holds already stays. OSError as setsockopt."""
    _attach(sock, REJECT_ALL)


def coarsen(selection: Selection) -> Selection:
    """Give a selection of few rules that accepts all that this one does and more.

    Addresses and ports go, and so does what comes before: to leave out too little is safe.
    """
    rules = None
    if selection.rules is not None:
        accepting = [rule for rule in selection.rules if rule.accept]
        rules = tuple(dict.fromkeys(_widen(rule, families) for rule in accepting for families in _families(rule)))
        rules = rules if len(rules) <= _MAX_COARSE_RULES else None
    return replace(selection, rules=rules, before=())


def _widen(rule: Rule, families: tuple[int, ...]) -> Rule:
    family = families[0] if len(families) == 1 else None
    return Rule(
        priority=0,
        accept=True,
        direction=rule.direction,
        family=family,
        protocol=rule.protocol,
        vlan=rule.vlan,
        ethertype=rule.ethertype,
    )


def _bare(selection: Selection) -> Selection:
    """What fits where even guards or the source's tags are too many."""
    return Selection(selection.direction, mark=selection.mark, mark_mask=selection.mark_mask)


def attach_program(sock: socket.socket, program: Program) -> bool:
    """Have the kernel filter a socket by a program, in place of any it has; False when it is too long for it."""
    if len(program) > MAX_INSTRUCTIONS:
        return False
    try:
        _attach(sock, program)
    except OSError as error:
        if error.errno in (errno.ENOMEM, errno.E2BIG):
            return False
        raise
    return True


def _attach(sock: socket.socket, program: Program) -> None:
    code = ctypes.create_string_buffer(op.pack(program))
    # struct sock_fprog of linux/filter.h: the count, and where the instructions are.
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code)))
