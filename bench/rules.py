"""What filter/decision.py earns: what a frame costs the kernel with many rules, decided by cuts or asked one by one.

`python -m bench.rules`: under a minute. It writes results/rules.md. A frame that the last rule accepts is sent from one
Unix socket to another that has the filter, which the kernel runs as it does on a packet socket.
"""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

from bench.machine import machine
from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import Assembler, Label, Program
from mirrord.dataplane.filter.bpf import MAX_INSTRUCTIONS, attach_program, compile_selection, needs_of, rules_of
from mirrord.dataplane.filter.bpf_headers import read
from mirrord.dataplane.filter.decision import ask
from mirrord.dataplane.filter.rules import Rule, Selection
from tests.support.programs import steps

RESULTS = Path(__file__).parent / "results" / "rules.md"
ROUNDS, FRAMES = 5, 20_000
COUNTS = (10, 100, 1000)
SHAPES: dict[str, Callable[[int], Rule]] = {
    "ports": lambda n: Rule(n, accept=n % 3 != 1, protocol=17, destination_ports=((13 * n, 13 * n + 1),)),
    "prefixes": lambda n: Rule(n, accept=n % 3 != 1, destinations=(IPv4Network((0x0A000000 | n << 8, 24)),)),
}


def one_by_one(selection: Selection) -> Program:
    """The rules in their order, each asked until one of its clauses does not hold."""
    asm, branches = Assembler(), rules_of(selection)
    read(asm, needs_of(branches))
    for branch in branches:
        following = Label()
        for clause in branch.clauses:
            ask(asm, clause, following)
        asm.emit(op.RET, branch.result)
        asm.place(following)
    asm.emit(op.RET, 0)
    return asm.program()


def frame(n: int) -> bytes:
    """UDP that the nth rule of either shape is for."""
    ip = bytes.fromhex("4500 001c 0001 0000 4011 0000 0a636363") + (0x0A000000 | n << 8 | 1).to_bytes(4, "big")
    return bytes(12) + b"\x08\x00" + ip + bytes(2) + (13 * n).to_bytes(2, "big") + bytes(4)


def nanoseconds(program: Program | None, data: bytes) -> float:
    """Of a processor, for a frame to be sent and received; without a program, what that takes by itself."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        if program is not None:
            assert attach_program(far, program)
        begun = time.thread_time_ns()
        for _ in range(FRAMES):
            near.send(data)
            far.recv(64)
        return (time.thread_time_ns() - begun) / FRAMES


def main() -> None:
    """The least of interleaved rounds, since what else runs on the machine only adds; less what no filter takes."""
    programs: dict[str, tuple[Program, bytes, float]] = {}
    for shape, rule in SHAPES.items():
        for count in COUNTS:
            last = count - count % 3  # one that accepts
            selection = Selection(rules=tuple(rule(n) for n in range(1, last + 1)))
            for how, compile_ in (("cuts", compile_selection), ("one by one", one_by_one)):
                begun = time.thread_time()
                program = compile_(selection)
                programs[f"{count} {shape}, {how}"] = program, frame(last), (time.thread_time() - begun) * 1000
    samples: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        samples[""].append(nanoseconds(None, frame(1)))
        for name, (program, data, _) in programs.items():
            if len(program) <= MAX_INSTRUCTIONS:
                samples[name].append(nanoseconds(program, data))
    bare = min(samples[""])
    lines = ["| rules | instructions | of them run | ns a frame | ms to compile |", "| --- | --- | --- | --- | --- |"]
    for name, (program, data, compiled) in programs.items():
        spent = f"{min(samples[name]) - bare:.0f}" if name in samples else "too long for the kernel"
        lines.append(f"| {name} | {len(program)} | {steps(program, data)} | {spent} | {compiled:.0f} |")
    about = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in machine().items())
    RESULTS.write_text(
        "\n".join(["# What many rules cost, for a frame that the last one takes\n", about, "", *lines, ""])
    )
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
