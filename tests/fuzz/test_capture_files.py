"""Capture files that somebody broke: every packet before the damage, then one clear error; never another one."""

from __future__ import annotations

import io
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from mirrord.cli.pcap import CaptureFileError, Packet, packets

FRAMES = [bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / bytes(length)) for length in range(46, 66)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The same frames as pcap of both byte orders and as pcapng."""
    directory = tmp_path_factory.mktemp("captures")
    for order, name in (("<", "little"), (">", "big")):
        wrpcap(str(directory / name), [Ether(frame) for frame in FRAMES], endianness=order)
    command = ["editcap", "-F", "pcapng", str(directory / "little"), str(directory / "ng")]
    subprocess.run(command, check=True, timeout=30)
    return [Path(directory, name).read_bytes() for name in ("little", "big", "ng")]


def read(content: bytes) -> list[Packet]:
    """What can be read of a file before it ends or breaks."""
    found = []
    with suppress(CaptureFileError):
        for packet in packets(io.BytesIO(content)):
            found.append(packet)  # noqa: PERF402 (what came before an error counts)
    return found


@given(data=st.data())
def test_a_file_that_is_cut(files: list[bytes], data: st.DataObject) -> None:
    for content in files:
        assert [packet.data for packet in read(content)] == FRAMES
        end = data.draw(st.integers(0, len(content)))
        found = [packet.data for packet in read(content[:end])]
        assert found == FRAMES[: len(found)]


@given(data=st.data())
def test_a_file_with_other_bytes_in_it(files: list[bytes], data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(files)))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + 4] = data.draw(st.binary(min_size=1, max_size=4))
    read(bytes(content))
