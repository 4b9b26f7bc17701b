"""A session whose destination is a stream of packets, and a client that reads one."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.daemon import Daemon
from tests.support.process import Process
from tests.support.send import UNANSWERED
from tests.support.topology import Host, Topology, acquaint

PORT = 57012
FRAME = UNANSWERED.ljust(512, b"\0")
SHORT = UNANSWERED[:60]
HEADER, RECORD = struct.Struct("<IHHiIII"), struct.Struct("<IIII")  # pcap(5), of nanoseconds: magic 0xA1B23C4D


def client_and_source(net: Topology) -> tuple[Host, Host]:
    """Two hosts: the client's eth0 is wired to the nic that is mirrored."""
    client, source = net.host("client"), net.host("source")
    net.link(client, "eth0", source, "nic", ("10.0.0.1/24", "10.0.0.2/24"))
    acquaint(client, "eth0", "10.0.0.1", source, "nic", "10.0.0.2")
    return client, source


def configuration(destination: str, more: str = "") -> str:
    return f"""
[mirrors.core]
[[mirrors.core.sessions]]
name = "stream"
source = "nic"
destination = {{ type = "pcap", {destination} }}
{more}
"""


LISTEN = f'listen = "127.0.0.1:{PORT}"'


def up(mirrord: Daemon) -> bool:
    return mirrord.metrics().total("mirrord_session_up", session="stream") == 1


def why(mirrord: Daemon) -> str:
    """The state of the session and its reason."""
    labels = next(
        dict(labels)
        for (name, labels), _ in mirrord.metrics().items()
        if name == "mirrord_session_info" and dict(labels)["session"] == "stream"
    )
    return f"{labels['state']}: {labels['reason']}"


@contextmanager
def running(process: Process) -> Iterator[Process]:
    try:
        yield process
    finally:
        process.close()


class Reader:
    """A client that reads a stream of pcap on a thread, record by record, unless it is told to pause."""

    def __init__(self, sock: socket.socket) -> None:
        self.packets: list[bytes] = []
        self.stamps: list[int] = []
        self.link = -1
        self.ended = ""
        self._sock, self._go = sock, threading.Event()
        self._go.set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @classmethod
    def connect(cls, host: Host, address: tuple[str, int] = ("127.0.0.1", PORT)) -> Reader:
        sock = host.open_socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)  # else the kernel takes megabytes that nobody reads
        sock.connect(address)
        return cls(sock)

    def pause(self) -> None:
        self._go.clear()

    def resume(self) -> None:
        self._go.set()

    def close(self) -> None:
        """As a process that is killed."""
        self._sock.shutdown(socket.SHUT_RDWR)
        self._go.set()
        self._thread.join(10)
        self._sock.close()

    def _run(self) -> None:
        try:
            magic, _, _, _, _, _, self.link = HEADER.unpack(self._read(HEADER.size))
            assert magic == 0xA1B23C4D
            while True:
                self._go.wait()
                seconds, nanoseconds, captured, _ = RECORD.unpack(self._read(RECORD.size))
                assert captured < 65536, "the middle of a record"
                self.packets.append(self._read(captured))
                self.stamps.append(seconds * 10**9 + nanoseconds)
        except Exception as error:  # noqa: BLE001 (the test looks at it)
            self.ended = repr(error)

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            some = self._sock.recv(length - len(data))
            if not some:
                raise EOFError
            data += some
        return data
