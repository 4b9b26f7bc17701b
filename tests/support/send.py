"""Ethernet frames and who sends them, exact in number: every one passes the egress taps of the device it leaves by."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from tests.support.tap import IFF_UP, REQUEST, SIOCGIFFLAGS
from tests.support.topology import Host

_BATCH_SECONDS = 0.002
QUEUE_SECONDS = 1.5
"""The kernel looks at carriers at least once a second (net/core/link_watch.c)."""

IFF_RUNNING = 0x40  # linux/if.h


def udp_frame(
    source: tuple[str, str, int], destination: tuple[str, str, int], payload: bytes = b"", *, length: int = 0
) -> bytes:
    """A UDP datagram in its Ethernet frame, between two (MAC, IPv4 address, port), padded to `length` bytes."""
    (source_mac, source_address, source_port), (mac, address, port) = source, destination
    payload = payload.ljust(max(0, length - 42), b"\0")
    layers = Ether(src=source_mac, dst=mac) / IP(src=source_address, dst=address) / UDP(sport=source_port, dport=port)
    return bytes(layers / payload)


ENDS = ("02:00:00:00:00:01", "10.1.0.1", 1000), ("02:00:00:00:00:02", "10.1.0.2", 2000)
FRAME = udp_frame(*ENDS, length=100)
"""A datagram of 100 bytes, for a test that does not mind which."""

UNANSWERED = bytes.fromhex("020000000002 020000000001 88b6").ljust(64, b"\0")
"""IEEE 802 Local Experimental Ethertype 2 (RFC 9542, appendix B.2): no host answers it."""


def send(host: Host, device: str, frame: bytes, count: int = 1, rate: float = 0) -> None:
    """Send a frame `count` times, evenly at `rate` frames a second; 0: as fast as Python can."""
    send_each(host, device, [frame] * count, rate)


def send_each(host: Host, device: str, frames: Sequence[bytes], rate: float = 0) -> None:
    """Send these frames in their order, evenly at `rate` frames a second; 0: as fast as Python can."""
    count = len(frames)
    with host.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as out:  # protocol 0: it receives nothing
        out.bind((device, 0))
        _await_queue(out, device)
        start, sent = time.monotonic(), 0
        while sent < count:
            due = count if not rate else min(count, 1 + int((time.monotonic() - start) * rate))
            for frame in frames[sent:due]:
                _send_one(out, frame)
            sent = due
            if sent < count:
                time.sleep(_BATCH_SECONDS)


@contextmanager
def sending(host: Host, device: str, frame: bytes, directory: Path) -> Iterator[None]:
    """Send a frame over and over, as fast as one core can, until the block ends."""
    process = host.spawn(*_trafgen(device, frame, directory), directory=directory)
    try:
        yield
    finally:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.close()
        for child in children:  # it is trafgen's child that sends, and goes on without it
            os.kill(int(child), signal.SIGKILL)


def _await_queue(out: socket.socket, device: str) -> None:
    """Until the device has a queue: after its carrier has come it drops all for a while, and no tap sees it. One that
    is up and gets no carrier is not waited for long.
    """
    until = time.monotonic() + QUEUE_SECONDS
    while time.monotonic() < until:
        _, flags = REQUEST.unpack(fcntl.ioctl(out, SIOCGIFFLAGS, REQUEST.pack(device.encode(), 0)))
        if flags & IFF_RUNNING or not flags & IFF_UP:
            return
        time.sleep(_BATCH_SECONDS)


def _send_one(out: socket.socket, frame: bytes) -> None:
    try:
        out.send(frame)
    except OSError as error:
        if error.errno != errno.ENOBUFS:  # the other end of a veth has no room: lost there, but the taps here saw it
            raise


def flood(host: Host, device: str, frame: bytes, count: int, directory: Path) -> None:
    """Send a frame `count` times as fast as one core can: trafgen, through the qdisc, where the taps see it."""
    before = host.transmitted(device)
    said = host.run(*_trafgen(device, frame, directory), "--num", str(count))
    outgoing = re.search(r"(\d+) packets outgoing", said)
    assert outgoing, said
    assert int(outgoing[1]) == count, said
    assert host.transmitted(device) - before >= count, said


def _trafgen(device: str, frame: bytes, directory: Path) -> tuple[str, ...]:
    description = directory / "flood.cfg"
    description.write_text("{ " + ", ".join(str(byte) for byte in frame) + " }\n")
    options = ("--qdisc-path", "--no-sock-mem", "--notouch-irq", "--cpus", "1")
    return ("trafgen", *options, "--dev", device, "--conf", str(description))
