"""Several collectors: shares, conversations that stay whole, a collector that dies under load, and one that comes back.

client eth0 ---- nic [source] eth0 ---- switch ---- eth0 [c0] ... [c3]
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import sqrt
from typing import NamedTuple

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.daemon import Daemon
from tests.support.meanwhile import meanwhile
from tests.support.receiver import Receiver
from tests.support.topology import Topology, receive_vxlan
from tests.support.wait import wait_for

FLOWS = int(os.environ.get("MIRRORD_FLOWS", "2000"))
COLLECTORS = 4
ETH_P_IP = 0x0800
OUTER = 14 + 20 + 8 + 8  # Ethernet, IPv4, UDP, VXLAN
RATE = {"python": 2000, "native": 10_000}  # frames a second that each data plane carries on a busy machine
SIX_DEVIATIONS = 6
MOST_WAITING = 600  # frames
ADDRESSES = [f"10.99.0.{10 + n}" for n in range(COLLECTORS)]


def frame(flow: int, serial: int) -> bytes:
    """The serial's parity is its direction; TCP, so that each flow is a conversation."""
    ports = 1024 + flow, 80
    there = serial % 2 == 0
    sport, dport = ports if there else ports[::-1]
    head = THERE if there else BACK
    return head + sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + TAIL + serial.to_bytes(4, "big")


def _ip(source: str, destination: str) -> bytes:
    layers = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src=source, dst=destination)
    return bytes(layers / TCP() / bytes(4))[: 14 + 20]


THERE, BACK = _ip("10.1.0.1", "10.1.0.2"), _ip("10.1.0.2", "10.1.0.1")
TAIL = bytes(TCP())[4:]


class Load:
    """Frames of every flow in turn, numbered from 0 on, and when each was sent. Never more of them wait than a ring has
    room for, however little time a machine has for the daemon. `each` is how many collectors get them.
    """

    def __init__(self, lan: Lan, rate: float, each: int = 1) -> None:
        self._out = lan.client.open_socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._out.bind(("eth0", 0))
        self._rate, self._source = rate, lan.source
        self.sent: list[float] = []
        self.go_to(each)

    def go_to(self, each: int) -> None:
        """So many collectors get them from now on; none waits now."""
        self._each, self._from, self._before = each, len(self.sent), self._source.transmitted("eth0")

    def send(self, count: int) -> None:
        begun = time.monotonic()
        for n in range(count):
            serial = len(self.sent)
            self.sent.append(time.monotonic())
            self._out.send(frame(self.flow_of(serial), serial))
            if n % 16 == 15 and (ahead := n / self._rate - (time.monotonic() - begun)) > 0:
                time.sleep(ahead)
            if n % 256 == 255:
                wait_for(lambda: self._waiting() < MOST_WAITING, "the daemon is not far behind")

    def _waiting(self) -> float:
        return len(self.sent) - self._from - (self._source.transmitted("eth0") - self._before) / self._each

    @staticmethod
    def flow_of(serial: int) -> int:
        return serial // 2 % FLOWS

    @contextmanager
    def going(self) -> Iterator[None]:
        """Go on sending, some hundredths of a second at a time, until the block ends."""
        with meanwhile(lambda: self.send(int(self._rate / 20))):
            yield

    def close(self) -> None:
        self._out.close()


class Lan:
    """The client, the source and the collectors, and what arrives at each of these."""

    def __init__(self, net: Topology, stack: ExitStack) -> None:
        self.client, self.source = net.host("client"), net.host("source")
        self.collectors = [net.host(f"c{n}") for n in range(COLLECTORS)]
        net.link(self.client, "eth0", self.source, "nic")
        hosts = dict(zip(self.collectors, (f"{one}/24" for one in ADDRESSES), strict=True))
        self.switch = net.lan({self.source: "10.99.0.1/24", **hosts}, mtu=1600)
        for one in self.collectors:
            receive_vxlan(one)
        self._receivers = [stack.enter_context(Receiver(one, "eth0")) for one in self.collectors]
        self.arrived: list[list[int]] = [[] for _ in self.collectors]  # serials

    def packets(self) -> list[list[bytes]]:
        """What came for each collector lately, in order; what is for others a switch may flood."""
        return [
            [one for one in receiver.frames(ETH_P_IP) if one[30:34] == socket.inet_aton(address)]
            for address, receiver in zip(ADDRESSES, self._receivers, strict=True)
        ]

    def look(self) -> list[list[int]]:
        """The serials that arrived at each collector so far, in order."""
        for came, arrived in zip(self.packets(), self.arrived, strict=True):
            for one in came:
                if one[23] == socket.IPPROTO_UDP and one[36:38] == (4789).to_bytes(2, "big"):
                    assert one[OUTER + 14 + 9] == socket.IPPROTO_TCP
                    arrived.append(int.from_bytes(one[OUTER + 54 : OUTER + 58], "big"))
        return self.arrived


@pytest.fixture
def lan(net: Topology) -> Iterator[Lan]:
    with ExitStack() as stack:
        yield Lan(net, stack)


def configuration(more: str = "", remotes: list[str] = ADDRESSES) -> str:
    return f"""
[[mirrors.m.sessions]]
name = "s"
source = "nic"
direction = "ingress"
capture = "ring"
ring_size = "64MiB"
destination = {{ type = "vxlan", remote = {remotes}, vni = 1, {more} }}
"""


def remotes(mirrord: Daemon) -> dict[str, dict[str, object]]:
    """What the API says of each collector."""
    (session,) = Api(mirrord.socket)("GET", "status").body["sessions"]
    return {one["remote"]: one for one in session["remotes"]}


def down(mirrord: Daemon) -> set[str]:
    return {remote for remote, one in remotes(mirrord).items() if not one["up"]}


def check_counters(mirrord: Daemon, lan: Lan, sent: int, *, each: int = 1) -> None:
    """Every frame is mirrored; what is counted for each collector arrived there, those of `check` alone."""
    metrics = mirrord.settle(sent)
    lost = {key: count for key, count in metrics.select("mirrord_dropped_frames_total").items() if count}
    assert lost == {}
    assert metrics.total("mirrord_captured_frames_total") == metrics.total("mirrord_mirrored_frames_total") == sent
    counted = [metrics.total("mirrord_remote_sent_packets_total", remote=one) for one in ADDRESSES]
    assert sum(counted) == metrics.total("mirrord_sent_packets_total") == each * sent
    assert [one["sent_packets"] for one in remotes(mirrord).values()] == counted
    assert metrics.total("mirrord_sent_bytes_total") == each * sent * (OUTER + len(frame(0, 0)))
    wait_for(lambda: sum(map(len, lan.look())) >= each * sent, "what was sent arrives")
    assert [len(one) for one in lan.look()] == counted


def loses_one(mirrord: Daemon, load: Load) -> bool:
    """Whether a frame that is sent now is lost: a worker hears of a plan a moment after others do."""
    before = mirrord.metrics().total("mirrord_dropped_frames_total")
    load.send(1)
    return mirrord.settle(len(load.sent)).total("mirrord_dropped_frames_total") != before


def test_each_conversation_goes_whole_to_one(lan: Lan, daemon: MakeDaemon, dataplane: str) -> None:
    mirrord = daemon(lan.source, configuration())
    load = Load(lan, RATE[dataplane])
    load.send(4 * FLOWS)  # each flow twice in each direction
    check_counters(mirrord, lan, len(load.sent))
    flows = [{load.flow_of(serial) for serial in arrived} for arrived in lan.arrived]
    assert sum(map(len, flows)) == len(set().union(*flows)) == FLOWS  # none is at two
    assert [len(arrived) for arrived in lan.arrived] == [4 * len(one) for one in flows]
    share = 1 / COLLECTORS
    deviation = sqrt(FLOWS * share * (1 - share))
    assert all(abs(len(one) - FLOWS * share) < SIX_DEVIATIONS * deviation for one in flows), list(map(len, flows))
    assert all(arrived == sorted(arrived) for arrived in lan.arrived)
    load.close()


def test_each_gets_everything(lan: Lan, daemon: MakeDaemon, dataplane: str) -> None:
    mirrord = daemon(lan.source, configuration('spread = "all"'))
    load = Load(lan, RATE[dataplane] / COLLECTORS, COLLECTORS)
    load.send(2000)
    check_counters(mirrord, lan, len(load.sent), each=COLLECTORS)
    assert all(arrived == list(range(2000)) for arrived in lan.arrived)

    # One that no route leads to is left out, and that is no loss.
    lan.source.ip(f"route add blackhole {ADDRESSES[1]}")
    wait_for(lambda: down(mirrord) == {ADDRESSES[1]}, "the daemon knows")
    load.go_to(COLLECTORS - 1)
    wait_for(lambda: not loses_one(mirrord, load), "its worker knows")
    before, begun = mirrord.metrics(), len(load.sent)
    load.send(1000)
    metrics = mirrord.settle(len(load.sent))
    for name in ("captured", "mirrored"):
        series = f"mirrord_{name}_frames_total"
        assert metrics.total(series) - before.total(series) == 1000
    wait_for(lambda: min(max(one) for n, one in enumerate(lan.look()) if n != 1) == len(load.sent) - 1, "what was sent")
    found = [sum(serial >= begun for serial in arrived) for arrived in lan.arrived]
    assert found == [1000, 0, 1000, 1000]
    (session,) = Api(mirrord.socket)("GET", "status").body["sessions"]
    assert session["state"] == "up"
    assert any(f"collector {ADDRESSES[1]} gets no copies: a blackhole route" in one for one in session["warnings"])
    load.close()


def test_a_list_of_which_none_can_be_reached_yet(lan: Lan, daemon: MakeDaemon) -> None:
    """As where the daemon begins before the network does."""
    mirrord = daemon(lan.source, configuration('local = "10.99.0.77"', ADDRESSES[:2]), up=False)
    wait_for(lambda: down(mirrord) == set(ADDRESSES[:2]), "it runs, and says so")
    load = Load(lan, 1000)
    load.send(100)
    metrics = mirrord.settle(100)
    assert metrics.total("mirrord_dropped_frames_total", reason="no_route") == 100
    lan.source.ip("address add 10.99.0.77/24 dev eth0")
    wait_for(lambda: down(mirrord) == set(), "the daemon knows")
    wait_for(lambda: not loses_one(mirrord, load), "its worker knows")
    begun = len(load.sent)
    load.send(100)
    mirrord.settle(len(load.sent))
    expected = list(range(begun, len(load.sent)))
    wait_for(lambda: sorted(n for one in lan.look() for n in one if n >= begun) == expected, "each of them, at one")
    load.close()


class Copy(NamedTuple):
    """Of the tunnels by their formats, RFC 2890 2.2, RFC 8926 3.4, draft-foschiano-erspan-03 4."""

    session: str
    number: int | None  # that the tunnel's header has
    serial: int

    @classmethod
    def of(cls, packet: bytes) -> Copy | None:
        tunnel, serial = packet[34:], int.from_bytes(packet[-4:], "big")
        if packet[23] == socket.IPPROTO_UDP and tunnel[2:4] == (6081).to_bytes(2, "big"):
            return cls("geneve", int.from_bytes(tunnel[8 + 8 + 4 + 16 : 8 + 8 + 4 + 20], "big"), serial)
        session = {0x6558: "gre", 0x88BE: "erspan", 0x22EB: "all"}.get(int.from_bytes(tunnel[2:4], "big"))
        if packet[23] != 47 or session is None:
            return None
        return cls(session, None if session == "gre" else int.from_bytes(tunnel[4:8], "big"), serial)


def test_lists_of_any_tunnel(lan: Lan, daemon: MakeDaemon) -> None:
    """Each chooses alike, counts each collector's copies by itself, and tells them alone of what is theirs."""
    three = f"remote = {ADDRESSES[:3]}"
    sessions = {
        "gre": f'type = "gre", {three}, key = 7',
        "erspan": f'type = "erspan", {three}, erspan_type = "II", session_id = 7',
        "geneve": f'type = "geneve", {three}, vni = 7, metadata = true',
        "all": f'type = "erspan", {three}, erspan_type = "III", session_id = 8, spread = "all"',
    }
    template = """
[[mirrors.m.sessions]]
name = "{}"
source = "nic"
direction = "ingress"
destination = {{ {} }}
"""
    mirrord = daemon(lan.source, "".join(template.format(*one) for one in sessions.items()))
    load, sent = Load(lan, 1000, 6), 160  # 80 flows in both directions
    load.send(sent)
    metrics = mirrord.settle(4 * sent)
    assert metrics.total("mirrord_mirrored_frames_total") == 4 * sent
    found: list[list[Copy]] = [[] for _ in ADDRESSES]

    def come() -> int:
        for packets, copies in zip(lan.packets(), found, strict=True):
            copies.extend(filter(None, map(Copy.of, packets)))
        return sum(map(len, found))

    wait_for(lambda: come() == (3 + 3) * sent, "every copy")
    homes: dict[str, dict[int, set[int]]] = {name: {} for name in sessions}
    for place, copies in enumerate(found):
        for one in copies:
            homes[one.session].setdefault(load.flow_of(one.serial), set()).add(place)
        for name in sessions:
            own = [one for one in copies if one.session == name]
            assert [one.serial for one in own] == sorted({one.serial for one in own})
            if name != "gre":
                assert [one.number for one in own] == list(range(len(own)))  # without a gap
            counted = metrics.select("mirrord_remote_sent_packets_total", session=name, remote=ADDRESSES[place])
            assert len(own) == sum(counted.values())
    assert homes["gre"] == homes["erspan"] == homes["geneve"]
    assert {len(places) for places in homes["gre"].values()} == {1}
    assert set().union(*homes["gre"].values()) == {0, 1, 2}
    assert all(places == {0, 1, 2} for places in homes["all"].values())
    load.close()


LIVENESS = {"python": "tcp:9999", "native": "icmp"}  # which is the same for both


def test_one_that_dies_under_load_moves_its_own_flows_alone(lan: Lan, daemon: MakeDaemon, dataplane: str) -> None:
    """The source keeps its carrier, and the kernel would find out about the next hop after 40 seconds."""
    listeners = [one.open_socket(socket.AF_INET, socket.SOCK_STREAM) for one in lan.collectors]
    for listener, address in zip(listeners, ADDRESSES, strict=True):
        listener.bind((address, 9999))
        listener.listen(64)
    mirrord = daemon(lan.source, configuration(f'liveness = "{LIVENESS[dataplane]}"'))
    load = Load(lan, RATE[dataplane] / 2)
    load.send(2 * FLOWS)
    wait_for(lambda: sum(map(len, lan.look())) >= 2 * FLOWS, "what was sent arrives")
    home = {load.flow_of(serial): n for n, arrived in enumerate(lan.arrived) for serial in arrived}
    with load.going():
        died = time.monotonic()
        lan.switch.ip("link set dev c1 nomaster")
        wait_for(lambda: down(mirrord) == {ADDRESSES[1]}, "the daemon knows")
        known = len(load.sent)
        wait_for(lambda: len(load.sent) > known + 2.5 * FLOWS, "each flow again", 30)
    metrics = mirrord.settle(len(load.sent))
    alive = [n for n in range(COLLECTORS) if n != 1]
    counted = [metrics.total("mirrord_remote_sent_packets_total", remote=ADDRESSES[n]) for n in alive]
    wait_for(lambda: [len(lan.look()[n]) for n in alive] == counted, "what was counted arrives")

    arrived = [set(one) for one in lan.arrived]
    assert [len(one) for one in arrived] == [len(one) for one in lan.arrived]  # nothing twice
    everywhere = set().union(*arrived)
    assert sum(map(len, arrived)) == len(everywhere)
    for serial in range(len(load.sent)):
        own = home[load.flow_of(serial)]
        assert own == 1 or serial in arrived[own], serial  # the others' go on without a gap
    lost = sorted(set(range(len(load.sent))) - everywhere)
    assert lost
    assert load.sent[lost[-1]] - died < 3
    after = {(load.flow_of(serial), n) for n, one in enumerate(arrived) for serial in one if serial > lost[-1]}
    assert len(after) == FLOWS  # whole, on one each
    assert {n for flow, n in after if home[flow] == 1} == {0, 2, 3}
    assert metrics.total("mirrord_mirrored_frames_total") == len(load.sent)  # the kernel took them all
    assert metrics.total("mirrord_remote_up", remote=ADDRESSES[1]) == 0
    assert metrics.total("mirrord_remote_up") == 3
    assert metrics.total("mirrord_session_up") == 1

    # It takes back what was its own, some seconds after it is there again.
    lan.switch.ip("link set dev c1 master br0")
    wait_for(lambda: down(mirrord) == set(), "it is back", 30)
    before = remotes(mirrord)[ADDRESSES[1]]["sent_packets"]

    def taken() -> bool:
        load.send(200)
        return remotes(mirrord)[ADDRESSES[1]]["sent_packets"] != before

    wait_for(taken, "it is sent to again")
    begun = len(load.sent)
    load.send(2 * FLOWS)
    metrics = mirrord.settle(len(load.sent))
    assert metrics.total("mirrord_mirrored_frames_total") == len(load.sent)
    wait_for(lambda: max(map(max, lan.look())) == len(load.sent) - 1, "what was sent arrives")
    back = {load.flow_of(serial): n for n, one in enumerate(lan.arrived) for serial in one if serial >= begun}
    assert back == home
    for listener in listeners:
        listener.close()
    load.close()
