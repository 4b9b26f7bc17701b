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
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Self

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


def test_stopped_receivers_harm_nobody(hosts: tuple[Host, Host], daemon: MakeDaemon, tmp_path: Path) -> None:
    """Of what any of them misses each frame is counted once; the other client, and the other session, have all."""
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
    files = [tmp_path / f"{name}.pcap" for name in ("first", "second")]
    source.run("sysctl", "-qw", "net.ipv4.tcp_wmem=4096 16384 65536")  # megabytes in the kernel would take long to fill
    with ExitStack() as stack:
        first, second = (stack.enter_context(running(_nc(source, one))) for one in files)
        wait_for(lambda: up(mirrord), "a client", 60)
        reader = Reader.connect(source)
        wait_for(lambda: mirrord.metrics().total("mirrord_stream_clients") == 3, "three clients")
        sender = stack.enter_context(Numbered(client, reader))

        def settled() -> float:
            metrics = mirrord.settle(captured=2 * sender.sent)
            wait_for(lambda: mirrord.metrics().total("mirrord_queued_frames") == 0, "all is sent")
            assert metrics.total("mirrord_dropped_frames_total", session="stream") == queue_full(mirrord)
            return queue_full(mirrord)

        def overflow() -> None:
            begun = queue_full(mirrord)
            while queue_full(mirrord) < begun + 300:
                sender.send(500)
                assert sender.sent < 50_000

        def caught_up() -> bool:
            sender.send(50)
            return last_number(files[0]) > sender.sent - 500

        sender.send(5)
        wait_for(lambda: len(reader.packets) == 5, "it is in use")
        first.send_signal(signal.SIGSTOP)
        overflow()
        second.send_signal(signal.SIGSTOP)  # the one has room for none of what the other still has room for
        sender.send(300)
        mirrord.settle(captured=2 * sender.sent)
        first.send_signal(signal.SIGCONT)
        wait_for(caught_up, "it goes on, and has caught up")
        overflow()
        second.send_signal(signal.SIGCONT)
        settled()
        sender.send(5)
        lost = settled()
        assert mirrord.metrics().total("mirrord_dropped_frames_total", session="file") == 0
        wait_for(lambda: len(reader.packets) == sender.sent, "all of them with the third client")
        assert not reader.ended
        everything = sender.numbers(reader.packets)
        assert everything == list(range(sender.sent))
        wait_for(
            lambda: all(sender.numbers(packets(one))[-5:] == everything[-5:] for one in files), "the last ones in files"
        )
        got = [sender.numbers(packets(one)) for one in files]
        for one, file_of in zip(got, files, strict=True):
            assert one == sorted(set(one))
            assert len(one) == count(file_of) < sender.sent
        # A frame is mirrored where each of them had room for it.
        in_all = set(got[0]) & set(got[1])
        assert lost == sender.sent - len(in_all)
        assert mirrord.metrics().total("mirrord_mirrored_frames_total", session="stream") == len(in_all)
        reader.close()
    mirrord.stop()
    assert count(file) == sender.sent


class Numbered:
    """Sends frames that their last four bytes tell apart, no faster than a client reads them."""

    def __init__(self, host: Host, reader: Reader) -> None:
        self.sent, self._reader = 0, reader
        self._out = host.open_socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._out.bind(("eth0", 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()

    def send(self, count: int) -> None:
        for n in range(count):
            self._out.send(FRAME[:-4] + self.sent.to_bytes(4, "big"))
            self.sent += 1
            if n % 50 == 49:  # its queue has room for some 490
                wait_for(lambda: len(self._reader.packets) > self.sent - 200, "the reader is not far behind", 60)

    @staticmethod
    def numbers(frames: list[bytes]) -> list[int]:
        return [int.from_bytes(frame[-4:], "big") for frame in frames]


def _nc(host: Host, file: Path) -> Process:
    """With a small buffer, else the kernel takes megabytes that nobody reads."""
    return host.spawn("sh", "-c", f"exec nc -I 32768 127.0.0.1 {PORT} >{file}")


def last_number(file: Path) -> int:
    """Of the last whole frame in a file of frames of one length; -1: of none."""
    whole = (file.stat().st_size - HEADER.size) // (RECORD.size + len(FRAME))
    if whole < 1:
        return -1
    with file.open("rb") as opened:
        opened.seek(HEADER.size + whole * (RECORD.size + len(FRAME)) - 4)
        return int.from_bytes(opened.read(4), "big")


def queue_full(mirrord: Daemon) -> float:
    return mirrord.metrics().total("mirrord_dropped_frames_total", session="stream", reason="queue_full")


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


@pytest.mark.parametrize("dataplane", ["native"])  # who listens is the same for both
def test_a_listener_says_what_it_lacks_and_serves_when_that_is_there(
    net: Topology, daemon: MakeDaemon, tmp_path: Path
) -> None:
    client, source = net.host("client"), net.host("source", ipv6=True)
    net.link(client, "eth0", source, "nic")
    authority = Authority(tmp_path)
    server, known = authority.issue("server", "IP:2001:db8::9"), authority.issue("known")
    key, certificate = Path(server.key), Path(server.certificate)
    right = {file: file.read_text() for file in (key, certificate)}
    key.unlink()
    tls = f'tls = {{ ca = "{authority.certificate}", certificate = "{certificate}", key = "{key}" }}'
    where = f"[2001:db8::9]:{PORT}"
    mirrord = daemon(source, configuration(f'listen = "{where}", format = "pcap", {tls}'), up=False)

    def says(text: str) -> None:
        wait_for(lambda: why(mirrord) == f"waiting: {text}", text)

    says(f"cannot listen on {where}: {key}: No such file or directory")
    key.write_text("nonsense")
    says(f"cannot listen on {where}: {key}: no private key in PEM, or with a pass phrase")
    key.write_text(Path(known.key).read_text())
    says(f"cannot listen on {where}: {key}: it is not the key of {certificate}")
    key.write_text(right[key])
    says(f"cannot listen on {where}: Cannot assign requested address")
    source.ip("address add 2001:db8::9/128 dev lo nodad")
    says(f"nobody is connected to {where}")

    def knock() -> socket.socket:
        sock = source.open_socket(socket.AF_INET6, socket.SOCK_STREAM)
        sock.connect(("2001:db8::9", PORT))
        return sock

    certificate.write_text("nonsense")
    knock().close()
    says(f"no client of {where} can be served: {certificate}: no certificate in PEM")
    certificate.write_text(right[certificate])
    knock().close()
    says(f"nobody is connected to {where}")

    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(known.certificate, known.key)

    def connected() -> Reader:
        reader = Reader(context.wrap_socket(knock(), server_hostname="2001:db8::9"))
        wait_for(lambda: up(mirrord), "a client", 60)
        return reader

    connected().close()
    says(f"nobody is connected to {where}")
    process = Path(f"/proc/{mirrord.pid}")
    before = [len(list((process / one).iterdir())) for one in ("fd", "task")]
    for n in range(100):
        sock = knock()
        if n % 4 == 0:
            context.wrap_socket(sock, server_hostname="2001:db8::9").close()
        sock.close()
    says(f"nobody is connected to {where}")
    wait_for(lambda: [len(list((process / one).iterdir())) for one in ("fd", "task")] <= before, "nothing is left")
    reader = connected()
    send(client, "eth0", SHORT, 3)
    wait_for(lambda: reader.packets[-3:] == [SHORT] * 3, "its packets")
    reader.close()


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
    ca = tmp_path / "later.pem"
    pem = f'ca = "{ca}", certificate = "{own.certificate}", key = "{own.key}"'

    def tls(name: str) -> str:
        return configuration(
            f'remote = "127.0.0.1", port = {PORT}, format = "pcap", tls = {{ {pem}, server_name = "{name}" }}'
        )

    with source.open_socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", PORT))
        listener.listen()
        listener.settimeout(60)
        mirrord = daemon(source, tls("another.example"), up=False)
        lacking = f"waiting: cannot connect to 127.0.0.1:{PORT}: {ca}: No such file or directory"
        wait_for(lambda: why(mirrord) == lacking, "it says what it lacks, and bothers nobody")
        ca.write_bytes(authority.certificate.read_bytes())
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
