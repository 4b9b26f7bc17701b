"""Many sources of different sessions: the first few have a socket each, the others are gathered, and each session gets
what is its own. What is busy parts.

client out0 ... out11 ---- nic0 ... nic11 [source] uplink ---- eth0 [collector]
"""

from __future__ import annotations

import http.client
import socket
import struct
from collections import Counter
from pathlib import Path

import pytest

from mirrord.control.host import bystanders
from mirrord.control.planning.plan import Entry, Key
from mirrord.control.running import taps
from mirrord.control.running.gathering import FEW
from mirrord.control.running.pipelines import Pipelines
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.rules import Direction, Selection
from mirrord.dataplane.forward import encap
from mirrord.plans import CapturePlan, DevicePlan, ForwardPlan, PipelinePlan
from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.receiver import Receiver
from tests.support.send import send, sending, udp_frame
from tests.support.source import linked
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

SOURCES = 12
CLIENT, SERVER = ("02:00:00:00:00:01", "10.0.0.1", 9), ("02:00:00:00:00:02", "10.0.0.2", 80)
VXLAN_PORT = struct.pack("!H", 4789)
VNI_AT, INNER = 14 + 20 + 8 + 4, 14 + 20 + 8 + 8  # behind the outer Ethernet, IPv4 and UDP


def sockets(host: Host) -> Counter[int]:
    """How many packet sockets of the host are for frames of each device, by its index, as the kernel has it. 0: of all,
    where there is one more, by which copies leave.
    """
    rows = [line.split() for line in host.run("cat", "/proc/net/packet").splitlines()[1:]]
    return Counter(int(row[4]) for row in rows if row[3] == "0003")


def session(number: int, name: str = "", **more: object) -> dict[str, object]:
    way = {"type": "vxlan", "remote": "10.99.0.2", "vni": number + 1, "shared_vni": True}
    return {"name": name or f"s{number}", "source": f"nic{number}", "destination": way, **more}


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    client, source, collector = linked(net)
    for number in range(SOURCES):
        net.link(client, f"out{number}", source, f"nic{number}")
    return client, source, collector


def frame(number: int) -> bytes:
    return udp_frame(CLIENT, SERVER, struct.pack("!I", number))


def arrived(receiver: Receiver) -> Counter[tuple[int, int]]:
    """The copies that came, by VNI and by the number in the frame inside."""
    packets = [one for one in receiver.frames(0x0800) if one[23] == socket.IPPROTO_UDP and one[36:38] == VXLAN_PORT]
    return Counter(
        (int.from_bytes(packet[VNI_AT : VNI_AT + 3], "big"), struct.unpack_from("!I", packet, INNER + 42)[0])
        for packet in packets
    )


def test_many_sources_are_captured_by_one_socket_and_each_session_gets_its_own(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon
) -> None:
    client, source, collector = hosts
    mirrord = daemon(source, "", up=False)
    api = Api(mirrord.socket)
    assert api("PUT", "mirrors/m", {"sessions": [session(n) for n in range(SOURCES)]}).status == http.client.CREATED
    mirrord.wait_up()
    assert sockets(source) == {0: 2}

    with Receiver(collector, "eth0") as receiver:
        for number in range(SOURCES):
            send(client, f"out{number}", frame(number), number + 1)
        send(source, "nic3", frame(99), 5)  # sent by it, too
        expected = Counter({(n + 1, n): n + 1 for n in range(SOURCES)} | {(4, 99): 5})
        metrics = mirrord.settle(captured=expected.total())
        assert arrived(receiver) == expected
        for number in range(SOURCES):
            captured = number + 1 + 5 * (number == 3)
            for series in ("captured", "mirrored"):
                total = metrics.total(f"mirrord_{series}_frames_total", session=f"s{number}")
                assert total == captured, (series, number)

        # another session of a source, a change and an end leave the socket where it is, and the others alone
        more = session(3, "more", direction="egress")
        assert api("POST", "mirrors/m/sessions", more).status == http.client.CREATED
        assert api("PATCH", "mirrors/m/sessions/s5", {"direction": "egress"}).status == http.client.OK
        assert api("DELETE", "mirrors/m/sessions/s0").status == http.client.NO_CONTENT
        mirrord.wait_up()
        assert sockets(source) == {0: 2}
        for number in (0, 3, 4, 5):
            send(client, f"out{number}", frame(number), 2)
            send(source, f"nic{number}", frame(100 + number), 3)
        expected = Counter({(4, 3): 2, (4, 103): 6, (5, 4): 2, (5, 104): 3, (6, 105): 3})
        before = int(metrics.total("mirrord_captured_frames_total")) - 1  # without those of s0
        metrics = mirrord.settle(captured=before + expected.total())
        assert arrived(receiver) == expected
    assert metrics.total("mirrord_captured_frames_total", session="more") == 3
    assert metrics.total("mirrord_dropped_frames_total") == 0


def test_a_mirror_that_drops_duplicates_has_its_sources_gathered_and_copies_each_packet_once(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon
) -> None:
    """Another mirror's copies are its own, though it has the same sources and collector."""
    client, source, collector = hosts
    mirrord = daemon(source, "", up=False)
    api = Api(mirrord.socket)
    for mirror in ("m", "n"):
        sessions = [session(n) | {"destination": session(mirror == "n")["destination"]} for n in range(SOURCES)]
        made = api("PUT", f"mirrors/{mirror}", {"duplicates": "drop", "duplicate_window": "1s", "sessions": sessions})
        assert made.status == http.client.CREATED, made
    mirrord.wait_up()
    assert sockets(source) == {0: 4}

    with Receiver(collector, "eth0") as receiver:
        for number in range(SOURCES):
            send(client, f"out{number}", frame(number))
            send(client, f"out{(number + 1) % SOURCES}", frame(number))
        metrics = mirrord.settle(captured=4 * SOURCES)
        assert arrived(receiver) == Counter((vni, number) for vni in (1, 2) for number in range(SOURCES))
    assert metrics.total("mirrord_mirrored_frames_total") == 2 * SOURCES
    assert metrics.total("mirrord_skipped_frames_total", reason="duplicate") == 2 * SOURCES


def test_sources_that_come_one_by_one_are_gathered_when_there_are_many(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon
) -> None:
    client, source, collector = hosts
    mirrord = daemon(source, "", up=False)
    api = Api(mirrord.socket)
    api("PUT", "mirrors/m", {"sessions": [session(0)]})
    for number in range(1, SOURCES):
        assert api("POST", "mirrors/m/sessions", session(number)).status == http.client.CREATED
    mirrord.wait_up()
    few = {source.index(f"nic{number}"): 1 for number in range(FEW)}
    assert sockets(source) == {**few, 0: 2}
    api("POST", "mirrors/m/sessions", session(1, "again"))
    mirrord.wait_up()
    assert sockets(source) == {**few, 0: 2}
    with Receiver(collector, "eth0") as receiver:
        for number in range(SOURCES):
            send(client, f"out{number}", frame(number), 2)
        expected = Counter({(n + 1, n): 2 + 2 * (n == 1) for n in range(SOURCES)})
        mirrord.settle(captured=expected.total())
        assert arrived(receiver) == expected


def test_a_device_that_goes_and_comes_again_costs_the_others_nothing(
    net: Topology, hosts: tuple[Host, Host, Host], daemon: MakeDaemon
) -> None:
    client, source, collector = hosts
    mirrord = daemon(source, "", up=False)
    api = Api(mirrord.socket)
    api("PUT", "mirrors/m", {"sessions": [session(n) for n in range(SOURCES)]})
    mirrord.wait_up()

    def states() -> Counter[str]:
        return Counter(row["state"] for row in api("GET", "status").body["sessions"])

    with Receiver(collector, "eth0") as receiver:
        send(client, "out5", frame(5), 3)
        source.ip("link delete nic5")
        source.ip("link set nic6 down")
        wait_for(lambda: states() == {"up": SOURCES - 2, "waiting": 2}, "two wait")
        send(client, "out7", frame(7), 2)
        net.link(client, "out5", source, "nic5")
        source.ip("link set nic6 up")
        wait_for(lambda: states() == {"up": SOURCES}, "all run again")
        for number in (5, 6, 7):
            send(client, f"out{number}", frame(number), 10)
        expected = Counter({(6, 5): 13, (7, 6): 10, (8, 7): 12})
        copies: Counter[tuple[int, int]] = Counter()

        def all_there() -> bool:
            copies.update(arrived(receiver))
            return copies == expected

        wait_for(all_there, "each frame's copy")
    assert sockets(source) == {0: 2}
    assert mirrord.metrics().total("mirrord_dropped_frames_total") == 0


@pytest.mark.parametrize("dataplane", ["native"])  # Python's own does not get to so many frames
def test_a_source_that_becomes_busy_gets_a_socket_of_its_own_which_others_join(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, tmp_path: Path
) -> None:
    client, source, _ = hosts
    mirrord = daemon(source, "", up=False)
    api = Api(mirrord.socket)
    api("PUT", "mirrors/m", {"sessions": [session(n) for n in range(SOURCES)]})
    mirrord.wait_up()
    busy = source.index("nic7")

    def parted() -> bool:
        (row,) = (row for row in api("GET", "status").body["sessions"] if row["session"] == "s7")
        return "several devices" not in row["capture"]

    assert not parted()
    with sending(client, "out7", frame(7), tmp_path):
        wait_for(parted, "a capture of its own")
        api("POST", "mirrors/m/sessions", session(7, "more"))
        mirrord.wait_up()
        send(client, "out3", frame(3), 10)
        joined = lambda: mirrord.metrics().total("mirrord_captured_frames_total", session="more") > 0  # noqa: E731
        wait_for(joined, "frames for the other session of the busy source")
    assert mirrord.output().count("a socket of their own from now on") == 1

    def settled() -> bool:
        sent = source.counter("nic7", "rx", "packets")  # by a process that was killed: the last of it may still come
        metrics = mirrord.metrics()
        captured, mirrored, dropped = (
            metrics.total(f"mirrord_{what}_frames_total", session="s7") for what in ("captured", "mirrored", "dropped")
        )
        return captured == mirrored + dropped and sent <= captured <= sent + dropped  # what was lost may have been its

    wait_for(settled, "every frame is accounted for")
    assert sockets(source) == {0: 2, busy: 1}
    metrics = mirrord.metrics()
    assert metrics.total("mirrord_mirrored_frames_total", session="s3") == 10
    for name in ("s3", "s7", "more"):
        captured, *parts = (
            metrics.total(f"mirrord_{what}_frames_total", session=name)
            for what in ("captured", "mirrored", "skipped", "dropped")
        )
        assert captured == sum(parts)
    both = [metrics.total("mirrord_captured_frames_total", session=name) for name in ("more", "s7")]
    assert 0 < both[0] < both[1]


def test_sources_part_where_devices_that_nobody_mirrors_become_busy(
    hosts: tuple[Host, Host, Host], dataplane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, source, collector = hosts
    monkeypatch.setattr(bystanders, "MOST", 100)
    monkeypatch.setattr(taps, "LOOK_SECONDS", 0.5)
    way = DevicePlan("uplink", source.index("uplink"))
    entries = {}
    for number in range(1, SOURCES):
        device = f"nic{number}"
        plan = CapturePlan(device, source.index(device), Selection(direction=Direction.INGRESS), mode="auto")
        key = Key("m", f"s{number}", device)
        entries[key] = Entry(key, "up", pipeline=PipelinePlan(plan, ForwardPlan(encap.bare()), way))
    running = source.call(lambda: Pipelines(native=dataplane == "native"))
    source.call(lambda: running.apply(entries))
    assert sockets(source) == {0: 2}
    apart = {source.index(f"nic{number}"): 1 for number in range(1, SOURCES)}

    def parted() -> bool:
        send(source, "nic0", frame(0), 100, rate=2000)
        source.call(running.balance)
        return sockets(source) == apart

    with Receiver(collector, "eth0") as receiver:
        wait_for(parted, "a socket for each, though no frames come", 10)
        assert {row.capture for row in running.rows()} == {"auto (socket)"}, "quiet ones take no ring"
        for number in range(1, SOURCES):
            send(client, f"out{number}", frame(number), number)
        expected = Counter({number: number for number in range(1, SOURCES)})
        counts = running.rows
        wait_for(lambda: sum(row.counters[Slot.mirrored] for row in counts()) == expected.total(), "all are mirrored")
        copies = [one for one in receiver.frames(0x0800) if one[36:38] == struct.pack("!H", SERVER[2])]
        assert Counter(struct.unpack_from("!I", copy, 42)[0] for copy in copies) == expected
    running.stop()
