"""A program that has the kernel keep the headers alone of some flows' frames, and of all others what it kept before.

A classic program's verdict is how much of a frame is kept (Documentation/networking/filter.rst). So what a session will
skip is still captured, and counted to the byte by the length that comes with it, but its payload is copied nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import Assembler, Instruction, Program
from mirrord.dataplane.filter.bpf import needs_of, rules_of
from mirrord.dataplane.filter.bpf_headers import read_headers
from mirrord.dataplane.filter.decision import ACCEPT, decide
from mirrord.dataplane.filter.rules import Rule, Selection
from mirrord.dataplane.frame.headers import PORT_PROTOCOLS
from mirrord.dataplane.frame.wire import TRIMMED
from mirrord.protocols import IPPROTO_TCP

if TYPE_CHECKING:
    from mirrord.dataplane.forward.flows import FlowKey

_ENDS_OF_TCP = ((0x07, 0),)
"""Neither FIN, SYN nor RST: those frames are mirrored whole."""


def can_be_trimmed(flow: FlowKey) -> bool:
    """Whether ports tell its frames: one without them may be of later fragments, which a guess has put there."""
    protocol, *ends = flow
    return protocol in PORT_PROTOCOLS and all(port for _, port in ends)


def trimmed(program: Program, flows: Iterable[FlowKey], *, pvid: int = 0) -> Program:
    """What accepts as this program does, and keeps TRIMMED bytes of these flows' frames. They can be trimmed.

    `pvid`: as an Assembler has it. The program's own verdicts are 0 and ACCEPT.
    """
    asm = Assembler(pvid=pvid)
    asm.include(tuple(_or_on(one, len(program) - n - 1) for n, one in enumerate(program)))
    rules = tuple(rule for flow in sorted(flows) for rule in _rules(flow))
    branches = [branch._replace(result=TRIMMED) for branch in rules_of(Selection(rules=rules))]
    read_headers(asm, needs_of(branches))
    decide(asm, branches, ACCEPT)
    return asm.program()


def _or_on(one: Instruction, left: int) -> Instruction:
    """What accepts goes on behind the program instead, so many instructions further."""
    accepts = (one.code, one.k) == (op.RET, ACCEPT)
    return Instruction(op.JA, k=left) if accepts else one


def _rules(flow: FlowKey) -> Iterator[Rule]:
    """Either direction of it."""
    protocol, *ends = flow
    for priority, ((source, from_port), (destination, to_port)) in enumerate((ends, ends[::-1])):
        yield Rule(
            priority,
            accept=True,
            protocol=protocol,
            sources=(_network(source),),
            destinations=(_network(destination),),
            source_ports=((from_port, from_port),),
            destination_ports=((to_port, to_port),),
            tcp_flags=_ENDS_OF_TCP if protocol == IPPROTO_TCP else (),
        )


def _network(address: bytes) -> IPv4Network | IPv6Network:
    return IPv4Network((address, 32)) if len(address) == 4 else IPv6Network((address, 128))
