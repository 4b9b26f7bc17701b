"""A core that was built with other modules, or that makes wrong copies, is not used, and it is said what to do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.vxlan import VXLAN

from mirrord import __version__
from mirrord.dataplane.native import core, mismatch, missing, self_test

AGAIN = ": install mirrord again"


def other(**differs: object) -> SimpleNamespace:
    """A core like the one that there is, but for this."""
    same = {name: getattr(core, name) for name in ("VERSION", "ENUMERATIONS", "Forward")}
    return SimpleNamespace(**same | differs)


def test_the_core_that_was_built_with_these_modules_is_used() -> None:
    assert __version__ == core.VERSION
    assert mismatch(core) == mismatch(other()) == missing == ""


def test_a_core_of_another_version_is_refused() -> None:
    older = mismatch(SimpleNamespace(VERSION="0.0.9"))
    assert older == f"the compiled core is of version 0.0.9, the rest of {__version__}{AGAIN}"
    assert mismatch(SimpleNamespace()).endswith(AGAIN)  # one that did not say


@pytest.mark.parametrize("enumeration", ["Slot", "OnMtuExceeded", "Payload", "Field", "Tunnel"])
def test_a_core_with_other_numbers_is_refused(enumeration: str) -> None:
    numbers = core.ENUMERATIONS[enumeration]
    last = max(numbers, key=lambda name: numbers[name])
    for wrong in ({}, {**numbers, last: 0}, {**numbers, "another": 99}):
        said = mismatch(other(ENUMERATIONS={**core.ENUMERATIONS, enumeration: wrong}))
        assert said == f"the compiled core numbers {enumeration} otherwise than the rest{AGAIN}"


def test_a_core_that_makes_wrong_copies_is_refused() -> None:
    def forward(*_: object) -> object:
        return lambda _: SimpleNamespace(copies=[b"\x01\x02"])

    said = mismatch(other(Forward=forward))
    assert said == f"the compiled core fails its self-test (wrong copies of a known frame: 0102){AGAIN}"


def test_a_core_that_takes_other_arguments_is_refused() -> None:
    said = mismatch(other(Forward=lambda: None))
    assert said.startswith("the compiled core fails its self-test (TypeError: ")
    assert said.endswith(AGAIN)


def test_the_self_test_expects_what_scapy_writes() -> None:
    link = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
    ends = {"src": "192.0.2.1", "dst": "192.0.2.2", "flags": "DF"}
    tcp = {"sport": 40000, "dport": 80, "ack": 2000}

    def segment(n: int, seq: int, flags: str, payload: bytes) -> bytes:
        inner = Ether(**link) / Dot1Q(vlan=5) / IP(**ends, id=n) / TCP(**tcp, seq=seq, flags=flags)
        return bytes(VXLAN(vni=0x123456, flags="Instance") / inner / payload)

    segments = [segment(1, 1000, "A", b"mirrored"), segment(2, 1008, "PA", b" twice")]
    assert segments == self_test.COPIES
    whole = bytes(Ether(**link) / IP(**ends, id=1) / TCP(**tcp, seq=1000, flags="PA") / b"mirrored twice")
    assert self_test.FRAME.data[:50] + self_test.FRAME.data[52:] == whole[:50] + whole[52:]  # but for the checksum
