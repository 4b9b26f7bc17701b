"""A capture on all devices does not hear what leaves by its sender. Whatever else leaves, it does.

source: out (ifb)
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from mirrord.dataplane.capture.packet_socket import Capture
from mirrord.dataplane.capture.way_in import MovableWayIn
from mirrord.dataplane.filter.by_device import Wanted
from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.frame.wire import VNET
from mirrord.dataplane.netns import find
from mirrord.plans import CapturePlan
from tests.support.topology import Topology
from tests.support.wait import wait_for

HEADER = bytes(12) + b"\x88\xb5"  # an ethertype for experiments
FRAMES = 20

Opened = tuple[Callable[[str], Capture], Callable[[Capture], list[int]]]


@pytest.fixture
def opened(net: Topology) -> Iterator[Opened]:
    """Opens a capture of what leaves by the device, whatever its mark; sends as copies leave, and as others would, and
    gives what was captured.
    """
    source = net.host("source")
    source.ip("link add out type ifb")
    source.ip("link set out up")
    index = source.index("out")

    def open_capture(mode: str) -> Capture:
        plan = CapturePlan("", 0, Selection(), mode=mode, netns=find(source.name), together=True)
        return Capture(plan, (Wanted(index, Selection()),))

    with source.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as other:
        other.bind(("out", 0))

        def captured(capture: Capture) -> list[int]:
            with socket.socket(fileno=os.dup(capture.sender.packet)) as sender:
                for n in range(FRAMES):
                    sender.sendto(bytes(VNET.size) + HEADER + bytes([100 + n]) + bytes(45), ("out", 0))
                    other.send(HEADER + bytes([n]) + bytes(45))
            found: list[int] = []

            def came() -> bool:
                found.extend(frame.data[14] for frame in capture.read() if frame.data[12:14] == HEADER[12:])
                return FRAMES - 1 in found  # the last one

            wait_for(came, "all are captured", 5)
            return found

        yield open_capture, captured


@pytest.mark.parametrize("mode", ["socket", "ring"])
def test_what_leaves_by_the_sender_is_not_captured(opened: Opened, mode: str) -> None:
    open_capture, captured = opened
    with closing(open_capture(mode)) as capture:
        assert captured(capture) == list(range(FRAMES))


def test_that_holds_while_the_capture_moves_and_the_sender_ends_with_the_last(opened: Opened) -> None:
    open_capture, captured = opened
    capture = open_capture("auto")
    sender = os.fstat(capture.sender.packet)
    for mode in ("ring", "socket", "ring"):
        movable = capture.movable()
        assert isinstance(movable, MovableWayIn)
        after = movable.successor(mode)
        assert isinstance(after, Capture)
        assert os.fstat(after.sender.packet).st_ino == sender.st_ino
        assert captured(after) == list(range(FRAMES))
        assert not list(capture.read())
        capture.close()
        assert captured(after) == list(range(FRAMES))
        capture = after
    descriptor = capture.sender.packet
    capture.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
