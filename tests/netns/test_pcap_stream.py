"""Streams of packets over TCP and TLS, to the programs that read them.

client eth0 ---- nic [source]; what receives runs on the source's loopback device, where nothing is mirrored
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from scapy.utils import RawPcapReader

from tests.conftest import MakeDaemon
from tests.support.captures import count, fields
from tests.support.certificates import Authority
from tests.support.daemon import Daemon
from tests.support.process import Process
from tests.support.send import UNANSWERED, send
from tests.support.topology import Host, Topology, acquaint
from tests.support.wait import wait_for

PORT = 57012
FRAME = UNANSWERED.ljust(512, b"\0")
SHORT = UNANSWERED[:60]
HEADER, RECORD = struct.Struct("<IHHiIII"), struct.Struct("<IIII")  # pcap(5), of nanoseconds: magic 0xA1B23C4D


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host]:
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


def holds(file: Path, size: int) -> bool:
    return file.exists() and file.stat().st_size >= size


def test_dumpcap_and_tshark_read_it(hosts: tuple[Host, Host], daemon: MakeDaemon, tmp_path: Path) -> None:
    client, source = hosts
    mirrord = daemon(source, configuration(LISTEN), up=False)
    assert wait_for(lambda: why(mirrord), "a state") == f"waiting: nobody is connected to 127.0.0.1:{PORT}"
    send(client, "eth0", FRAME, 10)
    file, piped, pipe = tmp_path / "dumpcap.pcapng", tmp_path / "piped.pcapng", tmp_path / "pipe"
    os.mkfifo(pipe)
    with (
        running(source.spawn("dumpcap", "-q", "-i", f"TCP@127.0.0.1:{PORT}", "-w", str(file))) as dumpcap,
        running(source.spawn("tshark", "-Q", "-i", str(pipe), "-w", str(piped))),
        running(source.spawn("sh", "-c", f"exec nc 127.0.0.1 {PORT} >{pipe}")),
    ):
        wait_for(lambda: mirrord.metrics().total("mirrord_stream_clients") == 2 and up(mirrord), "two clients", 60)
        assert mirrord.metrics().total("mirrord_captured_frames_total") == 0
        send(client, "eth0", FRAME, 20)
        send(source, "nic", FRAME, 10)
        metrics = mirrord.settle(captured=30)
        assert metrics.total("mirrord_mirrored_frames_total") == 30
        for one in (file, piped):
            wait_for(partial(holds, one, 30 * (28 + 512 + 16)), f"30 packets in {one}")
        dumpcap.stop(signal.SIGINT)
    wait_for(lambda: why(mirrord).startswith("waiting: nobody"), "nobody to send to")
    assert fields(file, "frame.len", "frame.interface_name") == [["512", "nic"]] * 30
    ways = [way for (way,) in fields(file, "frame.packet_flags_direction")]
    assert ways == ["0x00000001"] * 20 + ["0x00000002"] * 10
    assert count(file) == 30
    assert mirrord.metrics().total("mirrord_captured_frames_total") == 30  # and nothing while nobody was there


def test_a_stopped_receiver_harms_nobody(hosts: tuple[Host, Host], daemon: MakeDaemon, tmp_path: Path) -> None:
    """Of what it misses each frame is counted; the other client, and the other session, have all."""
    client, source = hosts
    file = tmp_path / "all.pcapng"
    more = f"""
ring_size = "64MiB"
[[mirrors.core.sessions]]
name = "file"
source = "nic"
ring_size = "64MiB"
destination = {{ type = "file", path = "{file}" }}
"""
    mirrord = daemon(
        source,
        configuration(f'{LISTEN}, format = "pcap", buffer = "256KiB"', more),
        up=False,
        capture_directories=[str(tmp_path)],
    )
    stopped = tmp_path / "stopped.pcap"
    nc = source.spawn("sh", "-c", f"exec nc -I 32768 127.0.0.1 {PORT} >{stopped}")
    with running(nc):
        wait_for(lambda: up(mirrord), "a client", 60)
        reader = Reader.connect(source)
        wait_for(lambda: mirrord.metrics().total("mirrord_stream_clients") == 2, "two clients")
        send(client, "eth0", SHORT, 5)
        wait_for(lambda: len(reader.packets) == 5, "it is in use")
        nc.send_signal(signal.SIGSTOP)
        total = 5
        while mirrord.metrics().total("mirrord_dropped_frames_total", session="stream", reason="queue_full") < 1000:
            send(client, "eth0", FRAME, 1000, 3000)
            total += 1000
            assert total < 50000
        metrics = mirrord.settle(captured=2 * total)
        nc.send_signal(signal.SIGCONT)
        wait_for(lambda: mirrord.metrics().total("mirrord_queued_frames") == 0, "it takes what is queued")
        send(client, "eth0", SHORT, 5)
        metrics = mirrord.settle(captured=2 * (total + 5))
        wait_for(lambda: mirrord.metrics().total("mirrord_queued_frames") == 0, "all is sent")
        metrics = mirrord.metrics()
        lost = metrics.total("mirrord_dropped_frames_total", session="stream", reason="queue_full")
        assert metrics.total("mirrord_dropped_frames_total", session="stream") == lost
        assert metrics.total("mirrord_dropped_frames_total", session="file") == 0
        wait_for(lambda: len(reader.packets) == total + 5, "all of them with the other client")
        assert not reader.ended
        wait_for(lambda: len(packets(stopped)) == total + 5 - lost, "what was not dropped")
        assert packets(stopped)[-5:] == [SHORT] * 5
        reader.close()
    mirrord.stop()
    assert count(file) == total + 5


def packets(file: Path) -> list[bytes]:
    """The packets of a file that may still grow: tcpdump's and tshark's reader of it is scapy."""
    try:
        with RawPcapReader(str(file)) as reader:
            return [data for data, _ in reader]
    except (EOFError, struct.error):
        return []


def test_a_broken_connection_is_counted(hosts: tuple[Host, Host], daemon: MakeDaemon) -> None:
    client, source = hosts
    mirrord = daemon(source, configuration(f'{LISTEN}, format = "pcap", buffer = "1MiB"'), up=False)
    reader = Reader.connect(source)
    wait_for(lambda: up(mirrord), "a client", 60)
    send(client, "eth0", SHORT, 3)
    wait_for(lambda: len(reader.packets) == 3, "it is in use")
    reader.pause()
    captured = 3
    while mirrord.metrics().total("mirrord_queued_frames") < 1000:
        send(client, "eth0", FRAME, 500, 3000)
        captured += 500
    before = mirrord.settle(captured)
    assert before.total("mirrord_dropped_frames_total") == 0
    queued = before.total("mirrord_queued_frames")
    reader.close()
    wait_for(lambda: why(mirrord).startswith("waiting"), "nobody to send to")
    after = mirrord.settle(captured)
    assert after.total("mirrord_dropped_frames_total", reason="queue_full") == queued
    assert after.total("mirrord_mirrored_frames_total") == captured - queued

    again = Reader.connect(source)  # and the next one begins with whole packets
    wait_for(lambda: up(mirrord), "another client", 60)
    send(client, "eth0", SHORT, 3)
    wait_for(lambda: again.packets == [SHORT] * 3, "its packets")
    mirrord.settle(captured + 3)
    again.close()


def test_it_connects_and_does_again(hosts: tuple[Host, Host], daemon: MakeDaemon) -> None:
    client, source = hosts
    mirrord = daemon(source, configuration(f'remote = "127.0.0.1", port = {PORT}, format = "pcap"'), up=False)
    refused = f"waiting: cannot connect to 127.0.0.1:{PORT}: Connection refused"
    wait_for(lambda: why(mirrord) == refused, "it says why")

    def once() -> None:
        with source.open_socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", PORT))
            listener.listen()
            listener.settimeout(60)
            connection, _ = listener.accept()
        reader = Reader(connection)
        wait_for(lambda: up(mirrord), "a collector")
        send(client, "eth0", SHORT, 3)
        wait_for(lambda: reader.packets == [SHORT] * 3, "its packets")
        reader.close()
        wait_for(lambda: not up(mirrord), "it is gone")

    once()
    once()
    assert mirrord.settle(captured=6).total("mirrord_mirrored_frames_total") == 6


def test_tls_lets_only_those_in_that_show_a_certificate(
    hosts: tuple[Host, Host], daemon: MakeDaemon, tmp_path: Path
) -> None:
    client, source = hosts
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "other")
    server, known, unknown = authority.issue("server"), authority.issue("known"), stranger.issue("unknown")
    tls = f'tls = {{ ca = "{authority.certificate}", certificate = "{server.certificate}", key = "{server.key}" }}'
    mirrord = daemon(source, configuration(f'listen = "10.0.0.2:{PORT}", allow = ["10.0.0.0/24"], {tls}'), up=False)
    openssl: list[str] = [
        "openssl",
        "s_client",
        "-quiet",
        "-connect",
        f"10.0.0.2:{PORT}",
        "-CAfile",
        str(authority.certificate),
    ]
    for credentials in ([], ["-cert", str(unknown.certificate), "-key", str(unknown.key)]):
        done = client.run(*openssl, *credentials, check=False)
        assert "alert" in done, done
    wait_for(lambda: mirrord.output().count("TLS: ") == 2, "it says so")
    assert why(mirrord).startswith("waiting: nobody")

    file = tmp_path / "tls.pcapng"
    command = " ".join([*openssl, "-cert", str(known.certificate), "-key", str(known.key), "-verify_return_error"])
    with running(client.spawn("sh", "-c", f"exec {command} >{file}")):
        wait_for(lambda: up(mirrord), "a client", 60)
        before = int(mirrord.metrics().total("mirrord_captured_frames_total"))
        send(client, "eth0", FRAME, 2000, 5000)
        wait_for(lambda: mirrord.metrics().total("mirrord_mirrored_frames_total") >= 2000, "they are mirrored")
        wait_for(lambda: mirrord.metrics().total("mirrord_queued_frames") == 0, "all is sent")
        wait_for(
            lambda: len([row for row in fields(file, "frame.len") if row == ["512"]]) == 2000, "whole, at the client"
        )
        metrics = mirrord.metrics()
    # The stream passes the source itself: its own segments and their answers are not mirrored again.
    assert metrics.total("mirrord_mirrored_frames_total") < 2000 + before + 20
    assert metrics.total("mirrord_skipped_frames_total", reason="own_copy") > 0
    assert "client gone" in mirrord.output()


def test_a_collector_that_shows_another_name_gets_nothing(
    hosts: tuple[Host, Host], daemon: MakeDaemon, tmp_path: Path
) -> None:
    client, source = hosts
    authority = Authority(tmp_path)
    server, own = authority.issue("server", "DNS:sensor.example"), authority.issue("own")
    accept = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accept.load_cert_chain(server.certificate, server.key)
    accept.load_verify_locations(authority.certificate)
    accept.verify_mode = ssl.CERT_REQUIRED
    pem = f'ca = "{authority.certificate}", certificate = "{own.certificate}", key = "{own.key}"'

    def tls(name: str) -> str:
        return configuration(
            f'remote = "127.0.0.1", port = {PORT}, format = "pcap", tls = {{ {pem}, server_name = "{name}" }}'
        )

    with source.open_socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", PORT))
        listener.listen()
        listener.settimeout(60)
        mirrord = daemon(source, tls("another.example"), up=False)
        connection, _ = listener.accept()
        with pytest.raises(OSError, match="alert"):
            accept.wrap_socket(connection, server_side=True).recv(1)
        wait_for(lambda: "TLS: " in why(mirrord), "it says why")
        assert "not valid for 'another.example'" in why(mirrord)
        mirrord.file.write_text(mirrord.file.read_text().replace("another.example", "sensor.example"))
        mirrord.reload()
        while True:  # attempts of before the reload may wait here
            connection, _ = listener.accept()
            try:
                reader = Reader(accept.wrap_socket(connection, server_side=True))
                break
            except OSError:
                continue
    wait_for(lambda: up(mirrord), "a collector", 60)
    send(client, "eth0", SHORT, 3)
    wait_for(lambda: reader.packets == [SHORT] * 3, "its packets")
    reader.close()
