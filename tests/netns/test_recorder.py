"""The flight recorder: `mirrorctl capture --last`, by the daemon and with real frames; tshark and capinfos read it.

client eth0 ---- nic [source] up ---- eth0 collector
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.captures import count, fields
from tests.support.ctl import COMMAND, ctl, invoke
from tests.support.daemon import Daemon
from tests.support.meanwhile import meanwhile
from tests.support.send import udp_frame
from tests.support.topology import Host, Topology, acquaint
from tests.support.wait import wait_for

CONFIGURATION = """
[mirrors.core]
[[mirrors.core.sessions]]
name = "vm2"
source = "nic"
{keys}
recorder = "1MiB"
destination = {{ type = "vxlan", remote = "10.1.0.2", vni = 7 }}
[[mirrors.core.sessions]]
name = "plain"
source = "nic"
destination = {{ type = "vxlan", remote = "10.1.0.2", vni = 8 }}
"""
CLIENT, SOURCE = ("02:00:00:00:00:01", "10.0.0.1", 1000), ("02:00:00:00:00:02", "10.0.0.2")
HERE = "udp.dstport", "frame.len", "frame.cap_len", "frame.packet_flags_direction", "frame.interface_name"


def link(client: Host, source: Host) -> None:
    net = Topology()
    net.link(client, "eth0", source, "nic", ("10.0.0.1/24", "10.0.0.2/24"))
    acquaint(client, "eth0", "10.0.0.1", source, "nic", "10.0.0.2")


@pytest.fixture
def client(net: Topology) -> Host:
    return net.host("client")


@pytest.fixture
def keys() -> str:
    """Of the session that keeps frames."""
    return "snaplen = 60"


@pytest.fixture
def mirrord(net: Topology, daemon: MakeDaemon, client: Host, tmp_path: Path, keys: str) -> Daemon:
    source, collector = net.host("source"), net.host("collector")
    link(client, source)
    net.link(source, "up", collector, "eth0", ("10.1.0.1/24", "10.1.0.2/24"), mtu=1600)
    acquaint(source, "up", "10.1.0.1", collector, "eth0", "10.1.0.2")
    configuration = CONFIGURATION.format(keys=keys)
    return daemon(source, configuration, read_only_socket=str(tmp_path / "reading.sock"), read_only_group="root")


def frame_to(port: int, payload: bytes = bytes(40)) -> bytes:
    template = udp_frame(CLIENT, (*SOURCE, 0), payload)
    return template[:36] + port.to_bytes(2, "big") + template[38:]


def send_to(client: Host, *ports: int, payload: bytes = bytes(40)) -> None:
    template = frame_to(0, payload)
    with client.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("eth0", 0))
        for port in ports:
            out.send(template[:36] + port.to_bytes(2, "big") + template[38:])


def mirrored(mirrord: Daemon, frames: int) -> None:
    """Wait until so many have been mirrored by both sessions."""
    mirrord.settle(2 * frames)


def follow(mirrord: Daemon, file: Path) -> subprocess.Popen[bytes]:
    arguments = ["capture", "vm2", "--last", "1m", "--follow", "-w", str(file)]
    return subprocess.Popen([*COMMAND, "--socket", str(mirrord.socket), *arguments], stderr=subprocess.PIPE)


def recorded(mirrord: Daemon, file: Path, *arguments: str) -> list[list[str]]:
    """What tshark reads of the last minute; the command ends by itself."""
    ctl(mirrord.socket, "capture", "core/vm2", "--last", "1m", "-w", str(file), *arguments)
    return fields(file, *HERE)


def rows(*ports: int) -> list[list[str]]:
    return [[str(port), "82", "60", "0x00000001", "nic"] for port in ports]


def test_the_last_frames_are_written_as_they_were_mirrored(mirrord: Daemon, client: Host, tmp_path: Path) -> None:
    file, before = tmp_path / "last.pcapng", time.time()
    send_to(client, *range(2000, 2020))
    mirrored(mirrord, 20)
    assert recorded(mirrord, file) == rows(*range(2000, 2020))
    times = [float(row[0]) for row in fields(file, "frame.time_epoch")]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= time.time()

    # Over a reload that has the session keep more of each frame from then on.
    mirrord.file.write_text(mirrord.file.read_text().replace("snaplen = 60", "snaplen = 0"))
    mirrord.reload()
    sent = 20

    def kept_whole() -> list[list[str]]:
        nonlocal sent
        send_to(client, 2000 + sent)
        sent += 1
        mirrored(mirrord, sent)
        found = recorded(mirrord, file)
        return found if found[-1][2] == "82" else []

    found = wait_for(kept_whole, "a frame that is kept whole")
    assert found == [*rows(*range(2000, 1999 + sent)), [str(1999 + sent), "82", "82", "0x00000001", "nic"]]

    # And while its device is away, and when it has come again.
    mirrord.host.ip("link delete nic")
    wait_for(lambda: mirrord.metrics().total("mirrord_session_up") == 0, "both sessions waiting")
    assert recorded(mirrord, file, "--source", "nic") == found
    link(client, mirrord.host)
    mirrord.wait_up()
    send_to(client, 2000 + sent)
    mirrored(mirrord, sent + 1)
    assert [row[0] for row in recorded(mirrord, file)] == [str(port) for port in range(2000, 2001 + sent)]

    # What is older than asked for is left out. A session that is disabled keeps nothing, and who follows it is done.
    wait_for(lambda: time.time() > times[-1] + 2, "two seconds")
    ctl(mirrord.socket, "capture", "core/vm2", "--last", "1s", "-w", str(file))
    assert count(file) < sent
    assert Api(mirrord.socket)("POST", "mirrors/core/disable").code == "read_only"
    followed = tmp_path / "followed.pcapng"
    following = follow(mirrord, followed)
    last = frame_to(2000 + sent)
    wait_for(lambda: followed.exists() and last in followed.read_bytes(), "all of it, and it follows")
    mirrord.file.write_text(mirrord.file.read_text().replace('name = "vm2"', 'name = "vm2"\nenabled = false'))
    mirrord.reload()
    wait_for(lambda: len(mirrord.metrics().select("mirrord_session_up")) == 1, "one session")
    _, said = following.communicate(timeout=10)
    assert (following.returncode, count(followed)) == (0, sent + 1), said
    kept = file.read_bytes()
    refused = invoke(mirrord.socket, "capture", "core/vm2", "--last", "1m", "-w", str(file))
    assert (refused.exit_code, file.read_bytes()) == (1, kept), "a refusal leaves the file as it is"
    assert "vm2 keeps no frames: set recorder" in refused.stderr
    assert mirrord.metrics().unaccounted() == 0


def test_follow_goes_on_without_a_gap_or_a_double(mirrord: Daemon, client: Host, tmp_path: Path) -> None:
    """While frames come all the time, from before the command until its end."""
    file, sent = tmp_path / "follow.pcapng", [0]

    def send_next() -> None:
        send_to(client, 10_000 + sent[0])
        sent[0] += 1

    with meanwhile(send_next):
        wait_for(lambda: sent[0] > 50, "frames before it")
        capture = follow(mirrord, file)
        wait_for(lambda: file.exists() and file.stat().st_size > 0, "the capture begins")
        begun = sent[0]
        wait_for(lambda: sent[0] > begun + 50, "frames while it follows")
    last = frame_to(10_000 + sent[0] - 1)[:60]
    wait_for(lambda: last in file.read_bytes(), "the last frame")
    capture.send_signal(signal.SIGINT)
    _, said = capture.communicate(timeout=10)
    assert capture.returncode == 0, said
    assert fields(file, *HERE) == rows(*range(10_000, 10_000 + sent[0]))
    assert f"{sent[0]} packets, ".encode() in said
    mirrored(mirrord, sent[0])


@pytest.mark.parametrize("keys", [""])
def test_under_a_flood_what_is_written_is_sound_and_what_is_missing_is_told(
    mirrord: Daemon, client: Host, tmp_path: Path
) -> None:
    """A reader that stands still is overtaken: the ring holds a thousand of these frames."""
    file, ports = tmp_path / "flood.pcapng", range(10_000, 14_000)
    capture = follow(mirrord, file)
    wait_for(lambda: file.exists() and file.stat().st_size > 0, "the capture begins")
    capture.send_signal(signal.SIGSTOP)
    send_to(client, *ports, payload=bytes(1000))
    mirrored(mirrord, len(ports))
    capture.send_signal(signal.SIGCONT)
    wait_for(lambda: frame_to(ports[-1], bytes(1000)) in file.read_bytes(), "the last frame")
    capture.send_signal(signal.SIGINT)
    _, said = capture.communicate(timeout=10)
    written = [int(row[0]) for row in fields(file, "udp.dstport") if row[0]]
    missing = len(ports) - len(written)
    assert missing > 0
    assert written == sorted(set(written))
    assert f"; {missing} are missing" in said.decode()
    assert count(file) == len(written)
    assert mirrord.metrics().total("mirrord_dropped_frames_total") == 0


@pytest.mark.parametrize("dataplane", ["native"], indirect=True)
@pytest.mark.parametrize("keys", ["workers = 4"])
def test_several_workers_keep_theirs_in_one_recorder(mirrord: Daemon, client: Host, tmp_path: Path) -> None:
    file = tmp_path / "workers.pcapng"
    template, sent = frame_to(0), [(pair, port) for port in range(50) for pair in range(1, 51)]
    with client.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("eth0", 0))
        for pair, port in sent:  # between 50 pairs of addresses
            out.send(template[:29] + bytes([pair]) + template[30:36] + port.to_bytes(2, "big") + template[38:])
    mirrored(mirrord, len(sent))
    ctl(mirrord.socket, "capture", "core/vm2", "--last", "1m", "-w", str(file))
    found = [(int(address.rpartition(".")[2]), int(port)) for address, port in fields(file, "ip.src", "udp.dstport")]
    assert sorted(found) == sorted(sent)
    for pair in range(1, 51):
        assert [port for one, port in found if one == pair] == list(range(50)), "in order between two addresses"


def test_what_cannot_be_had_is_told(mirrord: Daemon, client: Host, tmp_path: Path) -> None:
    file = tmp_path / "kept"
    file.write_text("what was here before")

    def refused(status: int, *arguments: str) -> str:
        return ctl(mirrord.socket, "capture", *arguments, "-w", str(file), status=status)

    assert "plain keeps no frames: set recorder of it" in refused(1, "core/plain", "--last", "30s")
    assert "no such session: vm3" in refused(1, "core/vm3", "--last", "30s")
    assert "no such source: eth7" in refused(1, "core/vm2", "--last", "30s", "--source", "eth7")
    assert "expected how long" in refused(2, "core/vm2", "--last", "yesterday")
    assert "--follow goes with --last" in refused(2, "core/vm2", "--follow")
    reading = Api(tmp_path / "reading.sock")("GET", "mirrors/core/sessions/vm2/capture?last=30s")
    assert (reading.status, reading.code) == (403, "read_only")
    for query in ("last=", "last=30", "last=1s&follow=yes", "follow=true"):
        assert Api(mirrord.socket)("GET", f"mirrors/core/sessions/vm2/capture?{query}").code == "bad_request"
    assert file.read_text() == "what was here before"

    # A session that runs has a recorder from the change on, and counts on.
    send_to(client, 2000)
    mirrored(mirrord, 1)
    mirrord.file.write_text(mirrord.file.read_text().replace('name = "plain"', 'name = "plain"\nrecorder = "2MiB"'))
    mirrord.reload()
    sent = 1

    def kept() -> list[list[str]]:
        nonlocal sent
        send_to(client, 2000 + sent)
        sent += 1
        mirrored(mirrord, sent)
        done = invoke(mirrord.socket, "capture", "core/plain", "--last", "1m", "-w", str(file))
        return fields(file, "udp.dstport") if done.exit_code == 0 else []

    found = wait_for(kept, "a frame that is kept")
    assert found == [[str(1999 + sent)]]
    assert mirrord.metrics().total("mirrord_mirrored_frames_total", session="plain") == sent
