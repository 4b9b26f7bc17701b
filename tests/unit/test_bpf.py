"""The compiled selection against the matcher: run by the real kernel, the Python interpreter and the C interpreter."""

from __future__ import annotations

import ctypes
import random
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import Instruction, Program, pack
from mirrord.dataplane.filter.bpf import attach_reject_all, coarsen, compile_selection
from mirrord.dataplane.filter.rules import Rule, Selection, accepts, decide
from mirrord.dataplane.filter.several import attach
from mirrord.dataplane.frame.headers import Tag, parse
from tests.support.interpreter import interpret
from tests.support.programs import METADATA, Pair, steps
from tests.support.selections import frames, rules, selections

NATIVE = Path(__file__).parents[2] / "mirrord" / "dataplane" / "native"
CLONE_NEWNET = 0x40000000  # linux/sched.h
# no_cover: measuring takes longer than these tests do, and the others run every line that they run.


class Native:
    """The C interpreter in a process of its own, under AddressSanitizer and UBSan."""

    def __init__(self, binary: Path) -> None:
        self.process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, program: Program, data: bytes, tag: Tag | None, *, egress: bool, mark: int) -> int | None:
        """What the program returns, or None when the check refuses it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        tci, tpid = (tag.tci, tag.tpid) if tag else (0, 0)
        request = struct.pack("=7I", len(program), len(data), mark, egress, tag is not None, tci, tpid)
        self.process.stdin.write(request + pack(program) + data)
        self.process.stdin.flush()
        refused, result = struct.unpack("=II", self.process.stdout.read(8))
        return None if refused else result


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Native]:
    binary = tmp_path_factory.mktemp("native") / "bpf"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    sources = [Path(__file__).with_name("bpf_harness.c"), NATIVE / "filter" / "bpf.c"]
    subprocess.run(["cc", *flags, f"-I{NATIVE}", *sources, "-o", binary], check=True)
    running = Native(binary)
    yield running
    running.process.communicate()
    assert running.process.returncode == 0


@pytest.mark.no_cover
@given(selection=selections(), sent=st.lists(frames(), min_size=1, max_size=8))
def test_kernel_runs_what_the_matcher_means(pair: Pair, selection: Selection, sent: list[bytes]) -> None:
    assert attach(pair.far, selection)
    for data in sent:
        assert pair.passes(data) == accepts(selection, parse(data), egress=False), data.hex()


@pytest.mark.no_cover
@given(selection=selections(), sent=st.lists(st.tuples(frames(), METADATA), min_size=1, max_size=8))
def test_interpreters_run_what_the_matcher_means(
    native: Native, selection: Selection, sent: list[tuple[bytes, tuple[Tag | None, bool, int]]]
) -> None:
    plain, numbered = compile_selection(selection), compile_selection(selection, numbered=True)
    for data, (tag, egress, mark) in sent:
        decision = decide(selection, parse(data, tag), egress=egress, mark=mark)
        verdict = 0xFFFFFFFF if decision.accept else 0
        number = verdict
        if decision.accept and decision.rule is not None:
            assert selection.rules is not None
            number = selection.rules.index(decision.rule) + 1
        for program, expected in ((plain, verdict), (numbered, number)):
            assert interpret(program, data, tag, egress=egress, mark=mark) == expected, data.hex()
            assert native.run(program, data, tag, egress=egress, mark=mark) == expected, data.hex()


@pytest.mark.no_cover
@given(rule=rules(), data=frames())
def test_one_rule_at_a_time(pair: Pair, rule: Rule, data: bytes) -> None:
    """Alone, a rule has the program read only what it needs: no other rule's reading hides what is missing."""
    selection = Selection(rules=(rule,))
    assert attach(pair.far, selection)
    assert pair.passes(data) == accepts(selection, parse(data), egress=False), data.hex()


@pytest.mark.no_cover
@given(selection=selections(), data=frames(), metadata=METADATA)
def test_coarse_selection_accepts_whatever_the_exact_one_does(
    selection: Selection, data: bytes, metadata: tuple[Tag | None, bool, int]
) -> None:
    tag, egress, mark = metadata
    headers = parse(data, tag)
    if accepts(selection, headers, egress=egress, mark=mark):
        assert accepts(coarsen(selection), headers, egress=egress, mark=mark)


def _udp(source: str, destination: str, port: int) -> bytes:
    packed = socket.inet_aton(source) + socket.inet_aton(destination)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0) + packed
    return bytes(12) + b"\x08\x00" + ip + struct.pack("!HHHH", 5, port, 8, 0)


def _many(count: int) -> Selection:
    """Rules for one destination network and port each; every third one rejects, and nothing is shared."""
    return Selection(
        rules=tuple(
            Rule(
                priority=n + 1,
                accept=n % 3 != 0,
                family=4 if n % 2 else None,
                protocol=17,
                destinations=(IPv4Network((0x0A000000 | n << 8, 24)),),
                destination_ports=((n, n + 1),),
            )
            for n in range(count)
        )
    )


class Crowd:
    """Hundreds of rules of a few kinds, as operators write them, and frames at their edges."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        kinds = self.random.sample([self._host, self._prefix, self._service, self._ports, self._pair], 3)
        count = self.random.choice([60, 300, 600])
        rules = (self.random.choice(kinds)() for _ in range(count))
        numbers = self.random.sample(range(1, 65536), count)
        rejected = self.random.choice([0, 0.1, 0.5])
        self.rules = tuple(
            replace(rule, priority=number, accept=self.random.random() >= rejected)
            for rule, number in zip(rules, numbers, strict=True)
        )

    def _network(self, *lengths: int) -> IPv4Network | IPv6Network:
        if self.random.random() < 0.3:
            value = 0x20010DB8 << 96 | self.random.getrandbits(6) << 80 | self.random.getrandbits(4)
            return IPv6Network((value, 128)).supernet(new_prefix=min(lengths) * 4)
        value = 10 << 24 | self.random.getrandbits(12) << 4 | self.random.getrandbits(2)
        return IPv4Network((value, 32)).supernet(new_prefix=self.random.choice(lengths))

    def _port(self) -> tuple[int, int]:
        first = self.random.choice([80, 443, 8080, self.random.randrange(1024)])
        return first, first + self.random.choice([0, 0, 0, 1, 300])

    def _host(self) -> Rule:
        return Rule(1, accept=True, destinations=(self._network(32),))

    def _prefix(self) -> Rule:
        return Rule(1, accept=True, sources=(self._network(8, 16, 22, 24, 28), self._network(20, 32)))

    def _service(self) -> Rule:
        ports = (self._port(),)
        return Rule(1, accept=True, protocol=6, destinations=(self._network(24, 32),), destination_ports=ports)

    def _ports(self) -> Rule:
        return Rule(1, accept=True, protocol=self.random.choice([6, 17]), destination_ports=(self._port(),))

    def _pair(self) -> Rule:
        return Rule(1, accept=True, sources=(self._network(32),), destinations=(self._network(24, 32),))

    def frame(self) -> bytes:
        """What one rule takes, or just does not."""
        rule = self.random.choice(self.rules)
        versions = {network.version for network in rule.sources + rule.destinations} or {4, 6}
        version = self.random.choice(sorted(versions))
        ends = []
        for networks in (rule.sources, rule.destinations):
            network = next((one for one in networks if one.version == version), self._network(32))
            number = int(network.network_address) + self.random.randrange(network.num_addresses)
            ends.append((number + self.random.choice([0, 0, 0, 0, 1, -1])) % (1 << (32 if version == 4 else 128)))
        low, high = rule.destination_ports[0] if rule.destination_ports else self._port()
        port = self.random.choice([low, low, high, high, low - 1, high + 1]) % 65536
        protocol = rule.protocol or self.random.choice([6, 17, 1])
        ports = struct.pack("!HHI", 5, port, 0)
        if version == 4:
            fragment = self.random.choice([0, 0, 0, 0, 0x2000, 0x2001])
            packed = b"".join(end.to_bytes(4, "big") for end in ends)
            header = struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, fragment, 64, protocol, 0)
            return bytes(12) + b"\x08\x00" + header + packed + ports
        packed = b"".join(end.to_bytes(16, "big") for end in ends)
        return bytes(12) + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, 8, protocol, 64) + packed + ports


@pytest.mark.parametrize("seed", range(8))
def test_hundreds_of_rules(pair: Pair, native: Native, seed: int) -> None:
    crowd, first = Crowd(seed), Crowd(seed + 1000)
    selection = Selection(rules=crowd.rules, before=(Selection(rules=first.rules[:50]),) if seed % 2 else ())
    numbered, plain = compile_selection(selection, numbered=True), compile_selection(selection)
    fits = attach(pair.far, selection)
    for _ in range(100):
        data = crowd.frame()
        decision = decide(selection, parse(data), egress=False)
        number = crowd.rules.index(decision.rule) + 1 if decision.accept and decision.rule else 0
        assert interpret(numbered, data) == number, data.hex()
        assert native.run(numbered, data, None, egress=False, mark=0) == number, data.hex()
        assert bool(interpret(plain, data)) == decision.accept, data.hex()
        passes = pair.passes(data)
        assert passes == decision.accept or (passes and not fits), data.hex()


@pytest.mark.parametrize("kind", ["hosts", "services", "prefixes", "ports"])
def test_a_thousand_rules_take_hardly_more_steps_than_ten(kind: str) -> None:
    def rule(n: int) -> Rule:
        accept = n % 3 != 1  # the last one, 999, too
        network = IPv4Network((0x0A000000 | n * 7 << 8, 24))
        ports = ((n * 13, n * 13 + 1),)
        match kind:
            case "hosts":
                return Rule(n + 1, accept, destinations=(IPv4Network((0x0A000000 | n * 7 << 8 | 9, 32)),))
            case "services":
                return Rule(n + 1, accept, protocol=17, destinations=(network,), destination_ports=ports)
            case "prefixes":
                return Rule(n + 1, accept, destinations=(network,))
            case _:
                return Rule(n + 1, accept, protocol=17, destination_ports=ports)

    every = tuple(rule(n) for n in range(1000))
    data = _udp("10.9.9.9", str(IPv4Address(0x0A000000 | 999 * 7 << 8 | 9)), 999 * 13)
    for numbered in (True, False):
        many, few = (compile_selection(Selection(rules=rules), numbered=numbered) for rules in (every, every[-10:]))
        assert interpret(many, data)
        assert interpret(few, data)
        assert steps(many, data) <= 1.5 * steps(few, data)


def test_jumps_past_255_instructions(pair: Pair, native: Native) -> None:
    selection = _many(200)
    program = compile_selection(selection)
    assert len(program) > 1000
    assert any(instruction.code == op.JA and instruction.k > 255 for instruction in program)
    assert attach(pair.far, selection)
    for n in random.Random(1).sample(range(201), 60):
        for port in (n - 1, n, n + 1, n + 2):
            data = _udp("10.9.9.9", f"10.0.{n}.7", port % 65536)
            expected = n < 200 and n % 3 != 0 and port in (n, n + 1)
            assert pair.passes(data) == expected
            assert bool(interpret(program, data)) == expected
            assert bool(native.run(program, data, None, egress=False, mark=0)) == expected


@pytest.mark.no_cover
def test_what_the_kernel_refuses_runs_coarsely_there_and_exactly_here(pair: Pair, native: Native) -> None:
    selection = _many(2000)
    assert not attach(pair.far, selection)
    program = compile_selection(selection, numbered=True)
    assert len(program) > 4096
    data = _udp("10.9.9.9", "10.7.207.1", 1999)
    assert pair.passes(data)
    assert native.run(program, data, None, egress=False, mark=0) == interpret(program, data) == 2000
    unwanted = _udp("10.9.9.9", "10.7.207.1", 53)
    assert pair.passes(unwanted)
    assert interpret(program, unwanted) == 0
    assert not pair.passes(unwanted[:23] + b"\x06" + unwanted[24:])  # TCP: not even coarsely


@pytest.mark.no_cover
def test_what_comes_before_is_left_out_where_it_does_not_fit(pair: Pair) -> None:
    selection = Selection(rules=(Rule(1, accept=True, protocol=17),), before=(_many(2000),))
    data = _udp("10.9.9.9", "10.7.207.1", 1999)
    assert not accepts(selection, parse(data), egress=False)
    assert not attach(pair.far, selection)
    assert pair.passes(data)
    assert interpret(compile_selection(selection, numbered=True), data) == 0
    assert not pair.passes(data[:23] + b"\x06" + data[24:])  # TCP: its own rule is exact


TAGS = frozenset(range(1, 4095, 2))


@pytest.mark.parametrize(
    ("selection", "data"),
    [
        (_many(600), _udp("10.9.9.9", "10.0.1.1", 53)),
        (Selection(rules=(Rule(1, accept=False),), vlans=TAGS), _udp("10.0.0.1", "10.0.0.2", 4789)),
    ],
    ids=["rules", "tags"],
)
def test_enomem_below_the_instruction_limit_is_coarse_too(selection: Selection, data: bytes) -> None:
    """A thread in a network namespace of its own has as little room for filters as older kernels give."""
    exact, passed = [], []

    def attach_in_little_room() -> None:
        assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0
        Path("/proc/sys/net/core/optmem_max").write_text("20480")
        little = Pair()
        exact.append(attach(little.far, selection))
        passed.append(little.passes(data))
        little.close()

    assert len(compile_selection(selection)) <= 4096
    thread = threading.Thread(target=attach_in_little_room)
    thread.start()
    thread.join()
    assert exact == [False]
    assert passed == [True]


def test_refusal_that_is_no_question_of_size_is_raised() -> None:
    closed, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    closed.close()
    other.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        attach(closed, Selection())


def test_reject_all(pair: Pair) -> None:
    assert attach(pair.far, Selection())
    assert pair.passes(b"")
    attach_reject_all(pair.far)
    assert not pair.passes(b"")
    assert not pair.passes(_udp("10.0.0.1", "10.0.0.2", 80))


@pytest.mark.parametrize(
    "program",
    [
        (),
        (Instruction(op.LD_IMM),),
        (Instruction(op.JA, k=1), Instruction(op.RET)),
        (Instruction(op.JEQ, 0, 1, 0), Instruction(op.RET)),
        (Instruction(op.JGE_X, 255, 0, 0), Instruction(op.RET)),
        (Instruction(op.LD_MEM, k=16), Instruction(op.RET)),
        (Instruction(op.STX, k=0xFFFFFFFF), Instruction(op.RET)),
        (Instruction(op.LSH, k=32), Instruction(op.RET)),
        (Instruction(op.LD_W_ABS, k=0xFFFFF034), Instruction(op.RET)),
        (Instruction(op.LD_B_IND, k=0xFFFFFFFF), Instruction(op.RET)),
        (Instruction(0x34, k=0), Instruction(op.RET)),  # division
        (Instruction(0xFFFF), Instruction(op.RET)),
        (Instruction(0x0E),),  # return X
    ],
)
def test_native_check_refuses(native: Native, program: Program) -> None:
    assert native.run(program, bytes(64), None, egress=False, mark=0) is None


@pytest.mark.no_cover
@given(
    program=st.lists(
        st.builds(
            Instruction,
            st.sampled_from([code for name, code in vars(op).items() if name.isupper() and isinstance(code, int)]),
            st.integers(0, 3),
            st.integers(0, 3),
            st.one_of(st.integers(0, 40), st.sampled_from([0x7FFFFFFF, op.MARK, op.VLAN_TPID, 0xFFFFFFFF])),
        ).filter(lambda instruction: instruction.code < 0x100),
        max_size=20,
    ),
    data=st.binary(max_size=40),
    metadata=METADATA,
)
def test_any_program_that_native_checks_runs_as_in_python(
    native: Native, program: list[Instruction], data: bytes, metadata: tuple[Tag | None, bool, int]
) -> None:
    tag, egress, mark = metadata
    whole = (*program, Instruction(op.RET, k=7))
    result = native.run(whole, data, tag, egress=egress, mark=mark)
    if result is not None:
        assert result == interpret(whole, data, tag, egress=egress, mark=mark)
