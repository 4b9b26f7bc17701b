"""Frames as blocks of a pcapng file: the two data planes alike, and tshark finds in them what was put in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrord.dataplane.forward import encap
from mirrord.dataplane.forward.step import Forward
from mirrord.dataplane.frame.headers import Tag
from mirrord.dataplane.frame.wire import VNET_GSO_TCPV4, VNET_NEEDS_CSUM, Frame, Vnet
from mirrord.dataplane.native import core, matcher
from mirrord.dataplane.transmit import pcapng
from mirrord.plans import ForwardPlan

SUPER = Vnet(VNET_NEEDS_CSUM, VNET_GSO_TCPV4, 54, 100, 34, 16)
IPV4_TCP = bytes.fromhex(
    "020000000002 020000000001 0800  45000000 00010000 40060000 0a000001 0a000002 04000050 00000000 00000000 50100000"
    "00000000"
)


def plan(snaplen: int = 0, *, strip_tag: bool = False) -> ForwardPlan:
    return ForwardPlan(encap.packet_block(), snaplen=snaplen, overhead=-28, strip_tag=strip_tag)


def python(of: ForwardPlan, frame: Frame) -> list[bytes]:
    return [copy.data + copy.trailer for copy in Forward(of)(frame).copies]


def native(of: ForwardPlan, frame: Frame) -> list[bytes]:
    return core.Forward(of, matcher(of))(frame).copies


@settings(deadline=None)
@given(
    payload=st.integers(0, 400),
    missing=st.integers(0, 3000),
    egress=st.booleans(),
    tag=st.none() | st.just(Tag(0x8100, 7)),
    together=st.booleans(),
    time=st.integers(0, (1 << 64) - 1),
    snaplen=st.sampled_from([0, 14, 60, 61, 62, 63]),
    strip_tag=st.booleans(),
)
def test_both_data_planes_make_the_same_blocks(
    payload: int, missing: int, egress: bool, tag: Tag | None, together: bool, time: int, snaplen: int, strip_tag: bool
) -> None:
    data = IPV4_TCP + bytes(payload)
    length = len(data) + (0 if together else missing)
    frame = Frame(data, length, egress, tag, SUPER if together else Vnet(), time)
    of = plan(snaplen, strip_tag=strip_tag)
    blocks = python(of, frame)
    assert native(of, frame) == blocks
    assert len(blocks) == (max(-(-payload // 100), 1) if together else 1)
    assert all(len(block) % 4 == 0 for block in blocks)


@pytest.mark.parametrize("blocks", [python, native])
def test_tshark_reads_what_the_capture_cut(tmp_path: Path, blocks: object) -> None:
    assert callable(blocks)
    time = 1_700_000_000_123_456_789
    frames = [
        Frame(bytes(60), 60, egress=False, time=time),
        Frame(bytes(61), 9000, egress=True, time=time + 1),  # a device gave less than there was
        Frame(bytes(60), 60, egress=False, time=time + 2, tag=Tag(0x8100, 7)),
        Frame(bytes(90), 90, egress=False, time=time + 3),
    ]
    head = pcapng.section("test", "a comment") + pcapng.interface("name", 70, "a comment")
    file = tmp_path / "blocks.pcapng"
    file.write_bytes(head + b"".join(block for frame in frames for block in blocks(plan(70), frame)))
    fields = ("time_epoch", "cap_len", "len", "packet_flags_direction", "interface_name")
    command = ["tshark", "-n", "-r", str(file), "-T", "fields"]
    for field in fields:
        command += ["-e", f"frame.{field}"]
    assert [line.split("\t") for line in subprocess.check_output(command, text=True).splitlines()] == [
        ["1700000000.123456789", "60", "60", "0x00000001", "name"],
        ["1700000000.123456790", "61", "9000", "0x00000002", "name"],
        ["1700000000.123456791", "64", "64", "0x00000001", "name"],
        ["1700000000.123456792", "70", "90", "0x00000001", "name"],
    ]
