"""File destinations, read by tshark and capinfos.

client eth0 ---- nic [source], which writes
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q
from scapy.utils import RawPcapReader

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.captures import about, count, count_cut_short, fields
from tests.support.ctl import invoke
from tests.support.daemon import Daemon
from tests.support.metrics import Metrics
from tests.support.packets import LINK
from tests.support.send import UNANSWERED, flood, send
from tests.support.topology import Host, Topology, acquaint
from tests.support.wait import wait_for

SO_TIMESTAMPNS = 35  # asm-generic/socket.h
FRAME = UNANSWERED.ljust(512, b"\0")
BLOCK = 28 + len(FRAME) + 16  # of a packet: draft-ietf-opsawg-pcapng 4.3, with flags as its only option
FLOW = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1000, dport=2000)
FRAMES = [bytes(LINK / FLOW / bytes(length)) for length in (18, 19, 20, 21, 1472)] + [
    bytes(LINK / Dot1Q(vlan=7) / FLOW / b"tagged")
]


def configuration(file: Path, keys: str = "", session: str = "") -> str:
    return f"""
[mirrors.core]
enabled = true

[[mirrors.core.sessions]]
name = "vm2"
source = {{ type = "device", device = "nic" }}
destination = {{ type = "file", path = "{file}" {keys} }}
ring_size = "64MiB"  # a quarter of a second of blocks, for a machine that stalls
{session}
"""


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host]:
    client, source = net.host("client"), net.host("source")
    net.link(client, "eth0", source, "nic", ("10.0.0.1/24", "10.0.0.2/24"))
    acquaint(client, "eth0", "10.0.0.1", source, "nic", "10.0.0.2")
    return client, source


@pytest.fixture
def captures(tmp_path: Path) -> Path:
    directory = tmp_path / "captures"
    directory.mkdir()
    return directory


@pytest.fixture
def small_disk(captures: Path) -> Iterator[Path]:
    """The same directory, with room for a megabyte."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(captures)], check=True)
    try:
        yield captures
    finally:
        subprocess.run(["umount", "-l", str(captures)], check=True)


@pytest.fixture
def one_stamp() -> Iterator[None]:
    """The kernel stamps a frame on its way in, once for all taps, while any socket of the machine asks for stamps."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        yield


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("c*.pcapng"))


@pytest.mark.usefixtures("one_stamp")
@pytest.mark.parametrize("snaplen", [0, 60])
def test_a_file_tells_all_about_its_frames(
    hosts: tuple[Host, Host], daemon: MakeDaemon, sniff: MakeSniffer, captures: Path, snaplen: int
) -> None:
    client, source = hosts
    tcpdump = sniff(source, "nic")
    file = captures / "c.pcapng"
    mirrord = daemon(source, configuration(file, session=f"snaplen = {snaplen}"), capture_directories=[str(captures)])
    for frame in FRAMES:
        send(client, "eth0", frame)
    send(source, "nic", FRAME)
    metrics = mirrord.settle(captured=len(FRAMES) + 1)
    mirrord.stop()
    with RawPcapReader(str(tcpdump.stop().file)) as reader:
        expected = [(data, at.sec * 1_000_000_000 + at.usec) for data, at in reader][:-1]  # but the end marker
    assert [data for data, _ in expected] == [*FRAMES, FRAME]

    names = ("time_epoch", "len", "cap_len", "interface_name", "packet_flags_direction")
    cut = snaplen or 2048
    assert fields(file, *(f"frame.{name}" for name in names)) == [
        [f"{at // 10**9}.{at % 10**9:09}", str(len(data)), str(min(len(data), cut)), "nic", way]
        for (data, at), way in zip(expected, ["0x00000001"] * len(FRAMES) + ["0x00000002"], strict=True)
    ]
    with RawPcapReader(str(file)) as reader:
        assert [data for data, _ in reader] == [data[:cut] for data, _ in expected]
    told = about(file)
    assert "mirror core, session vm2" in told
    assert "Time precision = nanoseconds (9)" in told
    assert "Encapsulation = Ethernet" in told
    kept = sum(min(len(data), cut) for data, _ in expected)
    assert metrics.total("mirrord_sent_bytes_total") == kept
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_super_frames_are_split(hosts: tuple[Host, Host], daemon: MakeDaemon, captures: Path) -> None:
    client, source = hosts
    file, size = captures / "c.pcapng", 1 << 20
    session = 'direction = "egress"\n'
    mirrord = daemon(source, configuration(file, session=session), capture_directories=[str(captures)])
    with client.open_socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("10.0.0.1", 9))
        listener.listen()
        with source.open_socket(socket.AF_INET, socket.SOCK_STREAM) as sender:
            sender.connect(("10.0.0.1", 9))
            receiver, _ = listener.accept()
            thread = threading.Thread(target=sender.sendall, args=(bytes(size),))
            thread.start()
            left = size
            while left:
                left -= len(receiver.recv(left))
            thread.join()
            receiver.close()
    wait_for(lambda: mirrord.metrics().total("mirrord_sent_bytes_total") > size, "the stream is in the file")
    metrics = mirrord.settle(captured=1)
    mirrord.stop()
    assert metrics.total("mirrord_segmented_frames_total") > 0
    assert metrics.total("mirrord_sent_packets_total") > metrics.total("mirrord_mirrored_frames_total")
    rows = [(int(length), int(payload or 0)) for length, payload in fields(file, "frame.len", "tcp.len")]
    assert max(length for length, _ in rows) <= 1514
    assert sum(payload for _, payload in rows) >= size


def test_rotation_by_size_is_exact(hosts: tuple[Host, Host], daemon: MakeDaemon, captures: Path) -> None:
    client, source = hosts
    size, total = 20_000, 1000
    config = configuration(captures / "c.pcapng", f", rotate_size = {size}")
    mirrord = daemon(source, config, capture_directories=[str(captures)])
    send(client, "eth0", FRAME, total, 5000)
    metrics = mirrord.settle(captured=total)
    mirrord.stop()
    made = files(captures)
    assert count(*made) == total == metrics.total("mirrord_mirrored_frames_total")
    assert all(size - BLOCK < file.stat().st_size <= size for file in made[:-1])
    assert made[-1].name == "c.pcapng"
    times = [float(row[0]) for file in made for row in fields(file, "frame.time_epoch")]
    assert times == sorted(times), "names sort as their packets"


def test_keep_bounds_the_files_over_restarts(hosts: tuple[Host, Host], daemon: MakeDaemon, captures: Path) -> None:
    client, source = hosts
    service = 64009  # which goes on with it later
    os.chown(captures, service, service)
    (captures / "c-other.pcapng").write_text("not ours")
    config = configuration(captures / "c.pcapng", f", rotate_size = {10 * BLOCK}, keep = 3")
    mirrord = daemon(source, config, capture_directories=[str(captures)])
    send(client, "eth0", FRAME, 100, 5000)
    mirrord.settle(captured=100)
    mirrord.stop()
    before = {file.name: file.read_bytes() for file in files(captures)}
    assert len(before) == 1 + 3
    assert {file.name for file in captures.iterdir() if file.stat().st_uid != service} == {"c-other.pcapng"}

    again = Daemon(source, mirrord.file.parent, config, capture_directories=[str(captures)], metrics="127.0.0.1:9818")
    left = {file.name: file.read_bytes() for file in files(captures)}
    again.stop()
    assert len(left) == 1 + 3
    assert left["c-other.pcapng"] == b"not ours"
    assert before["c.pcapng"] in [data for name, data in left.items() if name != "c.pcapng"], "renamed, not overwritten"
    assert count(captures / "c.pcapng") == 0


def test_a_wrong_clock_costs_no_recording(hosts: tuple[Host, Host], daemon: MakeDaemon, captures: Path) -> None:
    """Two files of an earlier run are dated 2031 and are in the list, another one is of a time without a list."""
    client, source = hosts
    early = [f"c-2031010{day}T000000.000000000Z.pcapng" for day in (1, 2, 3)]
    for name in early:
        (captures / name).write_text("an earlier run's")
    (captures / ".c.pcapng.files").write_text(f"{early[0]}\n{early[1]}\n")
    config = configuration(captures / "c.pcapng", f", rotate_size = {25 * BLOCK + 1000}, keep = 4")
    mirrord = daemon(source, config, capture_directories=[str(captures)])
    send(client, "eth0", FRAME, 75, 1000)
    mirrord.settle(captured=75)
    done = invoke(mirrord.socket, "--json", "doctor")
    told = {one["code"]: one["problem"] for one in json.loads(done.stdout)}
    assert told["files_dated_ahead"].startswith(f"{early[2]} is dated after the clock's time")
    assert told["files_not_counted"] == "finished files that keep does not count, and mirrord never deletes: 1"
    send(client, "eth0", FRAME, 25, 1000)
    mirrord.settle(captured=100)
    mirrord.stop()
    assert (captures / early[2]).read_text() == "an earlier run's"
    (captures / early[2]).unlink()
    assert count(*files(captures)) == 100
    assert len(files(captures)) == 4


def test_rotation_by_time_needs_no_frames(hosts: tuple[Host, Host], daemon: MakeDaemon, captures: Path) -> None:
    client, source = hosts
    config = configuration(captures / "c.pcapng", ", rotate_seconds = 1")
    mirrord = daemon(source, config, capture_directories=[str(captures)])
    send(client, "eth0", FRAME)
    mirrord.settle(captured=1)
    wait_for(lambda: len(files(captures)) == 2, "the file with a frame is finished")
    first, work = files(captures)
    assert (count(first), count(work)) == (1, 0)
    send(client, "eth0", FRAME)
    wait_for(lambda: len(files(captures)) == 3, "and the next one")
    assert [count(file) for file in files(captures)] == [1, 1, 0]


@pytest.mark.parametrize("keys", ["", ", rotate_size = 100000"], ids=["one", "rotating"])
def test_a_full_disk_stops_the_file_and_not_the_daemon(
    hosts: tuple[Host, Host], daemon: MakeDaemon, small_disk: Path, keys: str
) -> None:
    client, source = hosts
    filler = small_disk / "filler"
    filler.write_bytes(bytes(500_000))
    config = configuration(small_disk / "c.pcapng", keys)
    mirrord = daemon(source, config, capture_directories=[str(small_disk)])
    send(client, "eth0", FRAME, 2000, 5000)

    full = mirrord.settle(captured=2000)
    assert full.total("mirrord_session_up") == 0
    (info,) = full.select("mirrord_session_info")
    assert "No space left on device" in dict(info[1])["reason"]
    lost = full.total("mirrord_dropped_frames_total", reason="write_error")
    overrun = full.total("mirrord_dropped_frames_total", reason="ring_full")  # on a machine that stalls
    assert lost == 2000 - overrun - full.total("mirrord_mirrored_frames_total") > 0
    assert count(*files(small_disk)) == full.total("mirrord_mirrored_frames_total") > 0

    filler.unlink()
    sent = itertools.count(2001)

    def recovered() -> Metrics | None:
        send(client, "eth0", FRAME)
        metrics = mirrord.settle(captured=next(sent))
        return metrics if metrics.total("mirrord_session_up") == 1 else None

    wait_for(recovered, "the session is up again")
    metrics = mirrord.metrics()
    assert metrics.total("mirrord_mirrored_frames_total") > full.total("mirrord_mirrored_frames_total")
    assert count(*files(small_disk)) == metrics.total("mirrord_mirrored_frames_total")
    _, said = mirrord.stop()
    assert "Traceback" not in said


def test_after_a_kill_the_file_can_be_read(
    hosts: tuple[Host, Host], daemon: MakeDaemon, captures: Path, tmp_path: Path
) -> None:
    _, source = hosts
    config = configuration(captures / "c.pcapng", ", rotate_size = 1000000")
    mirrord = daemon(source, config, capture_directories=[str(captures)])
    sender = threading.Thread(target=flood, args=(source, "nic", FRAME, 200_000, tmp_path))
    sender.start()
    wait_for(lambda: len(files(captures)) > 2, "a few files")
    mirrord.kill()
    sender.join()
    *finished, last = files(captures)
    assert count(*finished) == len(finished) * count(finished[0])
    count_cut_short(last)


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda directory: directory.rmdir(), "No such file or directory"),
        (lambda directory: (directory / "c.pcapng").symlink_to("/dev/null"), "something is there that is not a file"),
        (lambda directory: (directory / "c.pcapng").mkdir(), "something is there that is not a file"),
    ],
    ids=["absent", "link", "directory"],
)
def test_what_cannot_be_written_fails_with_the_reason(
    hosts: tuple[Host, Host], daemon: MakeDaemon, captures: Path, prepare: object, reason: str
) -> None:
    _, source = hosts
    assert callable(prepare)
    prepare(captures)
    file = captures / "c.pcapng"
    mirrord = daemon(source, configuration(file), up=False, capture_directories=[str(captures)])
    (info,) = mirrord.metrics().select("mirrord_session_info")
    assert (dict(info[1])["state"], dict(info[1])["reason"]) == ("failed", f"{file}: {reason}")


def test_no_link_leads_out_of_the_directory(
    hosts: tuple[Host, Host], daemon: MakeDaemon, captures: Path, tmp_path: Path
) -> None:
    _, source = hosts
    (tmp_path / "elsewhere").mkdir()
    (captures / "sub").symlink_to(tmp_path / "elsewhere")
    config = configuration(captures / "sub/c.pcapng")
    mirrord = daemon(source, config, up=False, capture_directories=[str(captures)])
    assert mirrord.metrics().total("mirrord_session_up") == 0
    assert os.listdir(tmp_path / "elsewhere") == []  # noqa: PTH208


def test_links_that_are_put_in_place_while_it_writes_lead_nowhere(
    hosts: tuple[Host, Host], daemon: MakeDaemon, captures: Path, tmp_path: Path
) -> None:
    """First in the file's place, then in its directory's."""
    _, source = hosts
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (victim := elsewhere / "victim").write_text("untouched")
    (directory := captures / "sub").mkdir()
    config = configuration(directory / "c.pcapng", ', rotate_size = "2kB"')
    mirrord = daemon(source, config, capture_directories=[str(captures)])
    send(source, "nic", FRAME, 5)
    mirrord.settle(5)
    deleted = count(directory / "c.pcapng")
    (directory / "c.pcapng").unlink()
    (directory / "c.pcapng").symlink_to(victim)
    wait_for(lambda: mirrord.metrics().total("mirrord_session_up") == 0, "that it says so")
    (directory / "c.pcapng").unlink()
    wait_for(lambda: mirrord.metrics().total("mirrord_session_up") == 1, "its file again")
    send(source, "nic", FRAME, 50)
    mirrord.settle(55)
    directory.rename(captures / "moved")
    directory.symlink_to(elsewhere)
    send(source, "nic", FRAME, 50)
    metrics = mirrord.settle(105)
    mirrord.stop()
    assert [one.name for one in elsewhere.iterdir()] == ["victim"]
    assert victim.read_text() == "untouched"
    written = [one for one in (captures / "moved").iterdir() if one.name.endswith(".pcapng") and not one.is_symlink()]
    assert count(*written) + deleted == metrics.total("mirrord_mirrored_frames_total")


def test_a_fast_stream_is_all_in_the_files(
    hosts: tuple[Host, Host], daemon: MakeDaemon, captures: Path, tmp_path: Path, dataplane: str
) -> None:
    _, source = hosts
    total = {"python": 30_000, "native": 500_000}[dataplane]
    config = configuration(captures / "c.pcapng", ', rotate_size = "32MB"', 'capture = "ring"')
    mirrord = daemon(source, config, capture_directories=[str(captures)])
    flood(source, "nic", FRAME, total, tmp_path)
    metrics = mirrord.settle(captured=total)
    mirrord.stop()
    mirrored = metrics.total("mirrord_mirrored_frames_total")
    assert metrics.total("mirrord_captured_frames_total") == total
    assert mirrored + metrics.total("mirrord_dropped_frames_total", reason="ring_full") == total
    assert count(*files(captures)) == mirrored == metrics.total("mirrord_sent_packets_total")
    assert metrics.total("mirrord_sent_bytes_total") == mirrored * len(FRAME)


@pytest.mark.usefixtures("one_stamp")
def test_both_data_planes_write_the_same_bytes(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """Two daemons on one device: the kernel stamps a frame once for both."""
    client, source = hosts
    written = {}
    running = {}
    for port, plane in enumerate(("python", "native"), 9817):
        directory = tmp_path / plane
        directory.mkdir()
        config = configuration(directory / "c.pcapng", ", rotate_size = 5000")
        running[plane] = Daemon(
            source, directory, config, dataplane=plane, metrics=f"127.0.0.1:{port}",
            capture_directories=[str(directory)],
        )  # fmt: skip
    try:
        for frame in FRAMES * 5:
            send(client, "eth0", frame)
            send(source, "nic", frame)
        for mirrord in running.values():
            mirrord.settle(captured=10 * len(FRAMES))
    finally:
        for mirrord in running.values():
            mirrord.stop()
    for plane in running:
        written[plane] = [file.read_bytes() for file in files(tmp_path / plane)]
    assert written["python"] == written["native"]
    assert len(written["native"]) == 5
