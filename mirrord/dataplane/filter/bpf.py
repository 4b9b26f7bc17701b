"""A selection as a classic BPF program, for the kernel to run on a socket or for userspace to run exactly.

A program asks in this order: mark, direction, the source's tags, then the selections that come before, and rules.
Before these, bpf_headers has it read what they need of the headers into the scratch cells, once. Here a rule becomes
branches, see decision.py, which puts them into a program.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import WORD, Assembler, Label, Program
from mirrord.dataplane.filter.bpf_headers import Needs, read_headers, read_outer_vlan
from mirrord.dataplane.filter.cells import (
    DSCP_KNOWN,
    DSCP_SHIFT,
    FLAGS_KNOWN,
    ICMP_KNOWN,
    OF_ANY_FRAME,
    Cell,
    flags,
    kind,
)
from mirrord.dataplane.filter.decision import ACCEPT, Alternative, Branch, Clause, Range, ask, decide
from mirrord.dataplane.filter.rules import Direction, Rule, Selection
from mirrord.kernel import PACKET_OUTGOING

REJECT_ALL: Program = (op.Instruction(op.RET, k=0),)

MAX_INSTRUCTIONS = 4096  # linux/bpf_common.h, BPF_MAXINSNS
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_MAX_COARSE_RULES = 32


@lru_cache(maxsize=1024)
def compile_selection(selection: Selection, *, numbered: bool = False, raw: bool = False, pvid: int = 0) -> Program:
    """The program that gives 0 for a frame not captured, 0xFFFFFFFF (keep all of it) for one that is.

    `numbered`: for a frame that a rule accepts, instead, that rule's place in `selection.rules`, from 1. The program
    may be longer than the kernel takes (4096 instructions); userspace runs any.

    `raw`, `pvid`: for the socket of a device without Ethernet, or of a bridge's port, as an Assembler has them.
    """
    asm, reject = Assembler(raw=raw, pvid=pvid), Label()
    Door(selection.direction, selection.mark, selection.mark_mask).refuse_others(asm, reject)
    needs = needs_of_one(selection)
    if Cell.VLAN in needs.of_any:
        read_outer_vlan(asm)
    _refuse_vlans(asm, selection, reject)
    read_headers(asm, needs)
    decide_one(asm, replace(selection, vlans=None), numbered=numbered)
    asm.place(reject)
    asm.emit(op.RET, 0)
    return asm.program()


class Door(NamedTuple):
    """What is asked of a frame before its headers are read."""

    direction: Direction
    mark: int
    mark_mask: int  # 0: no mark is tested

    def refuse_others(self, asm: Assembler, reject: Label) -> None:
        """Go to `reject` with what it does not let in."""
        _refuse_marked(asm, self.mark, self.mark_mask, reject)
        if self.direction != Direction.BOTH:
            ask(asm, direction_clause(self.direction), reject)


def needs_of_one(selection: Selection) -> Needs:
    """What has to be read for a selection, and for what comes before it."""
    every = [selection, *_before(selection)]
    branches = [branch for one in every for branch in rules_of(one)]
    return needs_of(branches, tagged=any(one.vlans is not None for one in every))


def decide_one(asm: Assembler, selection: Selection, *, numbered: bool = False) -> None:
    """End the program for a frame that has come in by the selection's door."""
    reject = Label()
    _refuse_vlans(asm, selection, reject)
    for one in _before(selection):
        leave_with(asm, one, selection.direction, reject)
    decide(asm, rules_of(selection, numbered=numbered), ACCEPT if selection.rules is None else 0)
    asm.place(reject)
    asm.emit(op.RET, 0)


def _before(selection: Selection) -> list[Selection]:
    """What comes before it, as far as it may take something of it."""
    return [_remaining(one, selection) for one in selection.before if one.direction & selection.direction]


def _remaining(one: Selection, selection: Selection) -> Selection:
    """What is left to ask of `one`, which comes before, where `selection` has asked for mark and direction."""
    return replace(
        one,
        direction=one.direction & selection.direction,
        mark_mask=0 if (one.mark, one.mark_mask) == (selection.mark, selection.mark_mask) else one.mark_mask,
    )


def leave_with(asm: Assembler, one: Selection, direction: Direction, reject: Label) -> None:
    """Go to `reject` with what this selection accepts; fall through with the rest."""
    rest = Label()
    _refuse_marked(asm, one.mark, one.mark_mask, rest)
    if one.direction != direction:
        ask(asm, direction_clause(one.direction), rest)
    _refuse_vlans(asm, one, rest)
    ends = {0: rest, ACCEPT: reject}
    decide(asm, rules_of(one), ends[ACCEPT if one.rules is None else 0], ends)
    asm.place(rest)


def _refuse_vlans(asm: Assembler, selection: Selection, reject: Label) -> None:
    if selection.vlans is not None:
        ask(asm, tuple((Range(Cell.VLAN, low, high),) for low, high in runs(selection.vlans)), reject)


def _refuse_marked(asm: Assembler, mark: int, mask: int, reject: Label) -> None:
    if mask:
        asm.emit(op.LD_W_ABS, op.MARK)
        asm.emit(op.AND, mask)
        asm.jump(op.JEQ, mark, true=reject)


def needs_of(branches: Collection[Branch], *, tagged: bool = False) -> Needs:
    """What has to be read to ask these. `tagged`: the outermost tag, too."""
    ipv4, ipv6 = (_cells([branch for branch in branches if family in branch.families]) for family in (4, 6))
    of_any = _cells(branches) & OF_ANY_FRAME | ({Cell.VLAN} if tagged else set())
    return Needs(of_any, ipv4 - OF_ANY_FRAME, ipv6 - OF_ANY_FRAME)


def _cells(branches: Iterable[Branch]) -> frozenset[int]:
    tests = (test for branch in branches for clause in branch.clauses for ranges in clause for test in ranges)
    return frozenset(kind(test.cell) for test in tests)


# What rules ask


def rules_of(selection: Selection, *, numbered: bool = False) -> list[Branch]:
    branches: list[Branch] = []
    for number, rule in sorted(enumerate(selection.rules or (), start=1), key=lambda item: item[1].priority):
        if rule.direction & selection.direction:
            result = 0 if not rule.accept else number if numbered else ACCEPT
            branches += [branch_of(rule, selection.direction, families, result) for families in families_of(rule)]
    return branches


def families_of(rule: Rule) -> list[tuple[int, ...]]:
    """One branch for each set: each family apart where addresses tell them apart, none where no IP field asks."""
    asked: list[set[int]] = [
        {network.version for network in networks} for networks in (rule.sources, rule.destinations)
    ]
    asked.append(set() if rule.family is None else {rule.family})
    if any(asked):
        return [(family,) for family in (4, 6) if all(not families or family in families for families in asked)]
    of_ip = (rule.source_ports, rule.destination_ports, rule.dscps, rule.tcp_flags, rule.icmp_types, rule.icmp_codes)
    return [(4, 6)] if rule.protocol is not None or any(of_ip) else [()]


def branch_of(rule: Rule, direction: Direction, families: tuple[int, ...], result: int) -> Branch:
    clauses: list[Clause] = []
    if len(families) == 1:
        clauses.append(_equal(Cell.FAMILY, families[0]))
    if rule.protocol is not None:
        clauses.append(_equal(Cell.PROTOCOL, rule.protocol))
    if direction & ~rule.direction:
        clauses.append(direction_clause(rule.direction))
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
            clauses.append(_ranges(cell, ports))
    clauses += _details(rule)
    return Branch(families, tuple(clauses), result)


def _details(rule: Rule) -> Iterator[Clause]:
    """What the rule asks beside addresses and ports."""
    for cell, macs in ((Cell.SOURCE_MAC, rule.source_macs), (Cell.DESTINATION_MAC, rule.destination_macs)):
        if macs:
            yield tuple(_mac(cell, mac) for mac in macs)
    if rule.lengths:
        yield _ranges(Cell.LENGTH, rule.lengths)
    if rule.dscps:
        scale, known = 1 << DSCP_SHIFT, DSCP_KNOWN << DSCP_SHIFT
        yield tuple(
            (Range(Cell.DSCP, known + low * scale, known + high * scale),) for low, high in runs(frozenset(rule.dscps))
        )
    for cell, numbers in ((Cell.ICMP_TYPE, rule.icmp_types), (Cell.ICMP_CODE, rule.icmp_codes)):
        if numbers:
            yield tuple((Range(cell, ICMP_KNOWN + low, ICMP_KNOWN + high),) for low, high in runs(frozenset(numbers)))
    if rule.tcp_flags:
        asked = ((flags(mask), FLAGS_KNOWN | value) for mask, value in rule.tcp_flags)
        yield tuple((Range(cell, value, value),) for cell, value in asked)


def _mac(cell: int, mac: bytes) -> Alternative:
    first, last = int.from_bytes(mac[:4], "big"), int.from_bytes(mac[4:], "big")
    return Range(cell, first, first), Range(cell + 1, last, last)


def _ranges(cell: int, ranges: tuple[tuple[int, int], ...]) -> Clause:
    return tuple((Range(cell, low, high),) for low, high in ranges)


def _equal(cell: int, value: int) -> Clause:
    return ((Range(cell, value, value),),)


def direction_clause(direction: Direction) -> Clause:
    if direction == Direction.EGRESS:
        return _equal(Cell.DIRECTION, PACKET_OUTGOING)
    before = Range(Cell.DIRECTION, 0, PACKET_OUTGOING - 1)
    return ((before,), (Range(Cell.DIRECTION, PACKET_OUTGOING + 1, WORD),))


def _address(cell: int, address: IPv4Address | IPv6Address) -> Alternative:
    packed = address.packed
    words = [int.from_bytes(packed[at : at + 4], "big") for at in range(0, len(packed), 4)]
    return tuple(Range(cell + n, word, word) for n, word in enumerate(words))


def _network(cell: int, network: IPv4Network | IPv6Network) -> Alternative:
    first, last = _address(cell, network.network_address), _address(cell, network.broadcast_address)
    ranges = (Range(low.cell, low.low, high.low) for low, high in zip(first, last, strict=True))
    return tuple(test for test in ranges if (test.low, test.high) != (0, WORD))


def runs(numbers: frozenset[int]) -> list[tuple[int, int]]:
    """Numbers as inclusive ranges, ascending."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


# Having the kernel run it


def attach_reject_all(sock: socket.socket) -> None:
    """Attach a filter that rejects every frame; what it holds already stays. OSError as setsockopt."""
    _attach(sock, REJECT_ALL)


def coarsen(selection: Selection, *, addresses: bool = False) -> Selection:
    """Give a selection of fewer rules that accepts all that this one does and more.

    Addresses, MAC addresses too, go where they are not to be kept; ports, all else of the headers behind them, lengths
    and what comes before go always: to leave out too little is safe.
    """
    rules = None
    if selection.rules is not None:
        accepting = [rule for rule in selection.rules if rule.accept]
        widened = (_widen(rule, families, addresses=addresses) for rule in accepting for families in families_of(rule))
        rules = tuple(dict.fromkeys(widened))
        rules = rules if addresses or len(rules) <= _MAX_COARSE_RULES else None
    return replace(selection, rules=rules, before=())


def _widen(rule: Rule, families: tuple[int, ...], *, addresses: bool) -> Rule:
    family = families[0] if len(families) == 1 else None
    return Rule(
        priority=0,
        accept=True,
        direction=rule.direction,
        family=family,
        protocol=rule.protocol,
        sources=rule.sources if addresses else (),
        destinations=rule.destinations if addresses else (),
        vlan=rule.vlan,
        ethertype=rule.ethertype,
        source_macs=rule.source_macs if addresses else (),
        destination_macs=rule.destination_macs if addresses else (),
    )


def bare(selection: Selection) -> Selection:
    """What fits where even the source's tags are too many."""
    return Selection(selection.direction, mark=selection.mark, mark_mask=selection.mark_mask)


def attach_program(sock: socket.socket, program: Program) -> bool:
    """Attach a program as a socket's filter, in place of any it has. False when it is too long for the kernel."""
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
