"""Streams of packets over TCP, to the programs that read them.

client eth0 ---- nic [source]; what receives runs on the source's loopback device, where nothing is mirrored
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

import pytest
from scapy.utils import RawPcapReader

from tests.conftest import MakeDaemon
from tests.support.captures import count, fields
from tests.support.daemon import Daemon
from tests.support.process import Process
from tests.support.send import send
from tests.support.streams import (
    FRAME,
    HEADER,
    LISTEN,
    PORT,
    RECORD,
    SHORT,
    Reader,
    client_and_source,
    configuration,
    running,
    up,
    why,
)
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host]:
    return client_and_source(net)


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


@pytest.mark.parametrize("dataplane", ["native"])  # who listens is the same for both
@pytest.mark.parametrize("end", ["reload", "stop"])
def test_clients_that_lose_their_session_are_told_of(hosts: tuple[Host, Host], daemon: MakeDaemon, end: str) -> None:
    client, source = hosts
    mirrord = daemon(source, configuration(f'{LISTEN}, format = "pcap"'), up=False)
    reader = Reader.connect(source)
    wait_for(lambda: up(mirrord), "a client", 60)
    send(client, "eth0", SHORT, 3)
    wait_for(lambda: reader.packets == [SHORT] * 3, "its packets")
    if end == "reload":
        mirrord.file.write_text(mirrord.file.read_text().replace(str(PORT), str(PORT + 1)))
        mirrord.reload()
        wait_for(lambda: why(mirrord) == f"waiting: nobody is connected to 127.0.0.1:{PORT + 1}", "reloaded")
    else:
        assert mirrord.stop()[0] == 0
    (gone,) = [line for line in mirrord.output().splitlines() if "client gone" in line]
    assert 'reason="the session ended"' in gone.replace("'", '"')
    wait_for(lambda: reader.ended, "the end of the stream")
    reader.close()


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
