"""Ways out by which the kernel takes copies and discards them unsaid: they count as lost, the session says why.

client eth0 ---- nic [source] uplink ---- eth0  [collector]
                              span0  ---- span0
"""

from __future__ import annotations

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.api import Api
from tests.support.daemon import Daemon
from tests.support.send import FRAME, send
from tests.support.source import OVER_IPV4, OVER_IPV6
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

COPIES = "udp port 4789 or udp port 6081 or proto gre or ip6 proto gre"
TUNNELS = {
    "packet": '{ type = "vxlan", remote = "10.99.0.2", vni = 1 }\ntransmit = "packet"',
    "socket": '{ type = "geneve", remote = "10.99.0.2", vni = 2 }\ntransmit = "socket"',
    "gre": '{ type = "gre", remote = "10.99.0.2", key = 3 }\ntransmit = "socket"',
    "erspan": '{ type = "erspan", erspan_type = "II", remote = "10.99.0.2", session_id = 4 }',
    "v6": '{ type = "vxlan", remote = "2001:db8:99::2", vni = 5 }',
    "gre6": '{ type = "gre", remote = "2001:db8:99::2", key = 6 }\ntransmit = "socket"',
}


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    """Both families between source and collector, who find each other by themselves."""
    client, source, collector = net.host("client"), net.host("source", ipv6=True), net.host("collector", ipv6=True)
    net.link(client, "eth0", source, "nic")
    net.link(source, "uplink", collector, "eth0", OVER_IPV4.addresses, mtu=1600)
    net.link(source, "span0", collector, "span0")
    for host, device, address in zip((source, collector), ("uplink", "eth0"), OVER_IPV6.addresses, strict=True):
        host.ip(f"address add {address} dev {device}")
    wait_for(lambda: "tentative" not in source.ip("-6 address show dev uplink"), "the link-local address")
    return client, source, collector


def configuration(destinations: dict[str, str]) -> str:
    return "".join(
        f'[[mirrors.m.sessions]]\nname = "{name}"\nsource = "nic"\ndirection = "ingress"\ndestination = {keys}\n'
        for name, keys in destinations.items()
    )


def told(mirrord: Daemon) -> dict[str, tuple[str, str]]:
    """State and reason of each session."""
    sessions = Api(mirrord.socket)("GET", "status").body["sessions"]
    return {one["session"]: (one["state"], one["reason"]) for one in sessions}


def counted(mirrord: Daemon, reason: str) -> dict[str, tuple[float, float]]:
    """What each session has mirrored, and lost for this reason; nothing for any other."""
    sessions = Api(mirrord.socket)("GET", "status").body["sessions"]
    for one in sessions:
        assert sum(one["counters"]["dropped_frames"].values()) == one["counters"]["dropped_frames"][reason]
    return {
        one["session"]: (one["counters"]["mirrored_frames"], one["counters"]["dropped_frames"][reason])
        for one in sessions
    }


def test_a_next_hop_that_dies_and_comes_back(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, sniff: MakeSniffer
) -> None:
    client, source, collector = hosts
    sniffer = sniff(collector, "eth0", COPIES)
    mirrord = daemon(source, configuration(TUNNELS), up=False)
    mirrord.wait_up()
    send(client, "eth0", FRAME, 10)
    mirrord.settle(10 * len(TUNNELS))
    assert counted(mirrord, "no_route") == dict.fromkeys(TUNNELS, (10, 0))

    collector.ip("address flush dev eth0")
    for remote in ("10.99.0.2", "2001:db8:99::2"):
        source.ip(f"neighbour delete {remote} dev uplink")  # what the kernel finds out by itself after 40 seconds
    dead = {
        name: ("failed", f"the next hop to {'2001:db8:99::2' if '6' in name else '10.99.0.2'} does not answer")
        for name in TUNNELS
    }
    wait_for(lambda: told(mirrord) == dead, "each session says that its next hop is dead", 15)
    send(client, "eth0", FRAME, 50)
    mirrord.settle(60 * len(TUNNELS))
    assert counted(mirrord, "no_route") == dict.fromkeys(TUNNELS, (10, 50))
    wait_for(lambda: mirrord.output().count("does not answer") == len(TUNNELS), "each is logged")

    for underlay in (OVER_IPV4, OVER_IPV6):
        collector.ip(f"address add {underlay.addresses[1]} dev eth0")
    wait_for(lambda: set(told(mirrord).values()) == {("up", "")}, "all sessions up again", 30)
    send(client, "eth0", FRAME, 10)
    mirrord.settle(70 * len(TUNNELS))
    assert counted(mirrord, "no_route") == dict.fromkeys(TUNNELS, (20, 50))
    assert len(sniffer.stop().frames()) == 20 * len(TUNNELS)


def test_no_carrier_and_devices_that_are_down(hosts: tuple[Host, Host, Host], daemon: MakeDaemon) -> None:
    client, source, collector = hosts
    source.ip("link add name ifb0 type ifb")  # its operational state is unknown
    source.ip("link set dev ifb0 up")
    source.ip(f"neighbour replace 10.99.0.2 lladdr {collector.mac('eth0')} dev uplink")
    ends = {
        "tunnel": TUNNELS["packet"],
        "span": '{ type = "device", device = "span0" }',
        "ifb": '{ type = "device", device = "ifb0" }',
    }
    for host, device in ((source, "span0"), (collector, "span0")):
        host.run("sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=1")  # it is to carry the copies alone
    before = source.transmitted("span0")
    mirrord = daemon(source, configuration(ends))
    send(client, "eth0", FRAME, 10)
    mirrord.settle(30)

    collector.ip("link set dev eth0 down")
    collector.ip("link set dev span0 down")
    cut = {
        "tunnel": ("failed", "uplink, by which copies leave, has no carrier"),
        "span": ("failed", "span0, by which copies leave, has no carrier"),
        "ifb": ("up", ""),
    }
    wait_for(lambda: told(mirrord) == cut, "the sessions say that there is no carrier")
    source.ip(f"neighbour replace 10.99.0.2 lladdr {collector.mac('eth0')} dev uplink")
    send(client, "eth0", FRAME, 50)
    mirrord.settle(180)
    assert counted(mirrord, "link_down") == {"tunnel": (10, 50), "span": (10, 50), "ifb": (60, 0)}

    collector.ip("link set dev eth0 up")
    collector.ip("link set dev span0 up")
    wait_for(lambda: set(told(mirrord).values()) == {("up", "")}, "all sessions up again")
    source.ip("link set dev span0 down")
    down = ("failed", "span0, by which copies leave, is down")
    wait_for(lambda: told(mirrord)["span"] == down, "the session says that its device is down")
    send(client, "eth0", FRAME, 5)
    mirrord.settle(195)
    assert counted(mirrord, "link_down") == {"tunnel": (15, 50), "span": (10, 55), "ifb": (65, 0)}
    source.ip("link set dev span0 up")
    wait_for(lambda: told(mirrord)["span"] == ("up", ""), "the session up again")
    send(client, "eth0", FRAME, 5)
    mirrord.settle(210)
    assert counted(mirrord, "link_down")["span"] == (15, 55)
    assert source.transmitted("span0") - before == 15


def test_routes_that_lead_nowhere(hosts: tuple[Host, Host, Host], daemon: MakeDaemon) -> None:
    client, source, _ = hosts
    mirrord = daemon(source, configuration(TUNNELS), up=False)
    mirrord.wait_up()
    remotes = {name: "2001:db8:99::2" if "6" in name else "10.99.0.2" for name in TUNNELS}
    kinds = {
        "blackhole": "a blackhole route swallows what is sent to {}",
        "prohibit": "a route prohibits sending to {}",
        "unreachable": "a route says that {} cannot be reached",
    }
    for n, (kind, reason) in enumerate(kinds.items(), 1):
        for remote, length in (("10.99.0.2", 32), ("2001:db8:99::2", 128)):
            source.ip(f"route add {kind} {remote}/{length} metric 1")
        expected = {name: ("failed", reason.format(remote)) for name, remote in remotes.items()}
        wait_for(lambda expected=expected: told(mirrord) == expected, f"each session tells of {kind}")  # type: ignore[misc]
        send(client, "eth0", FRAME, 10)
        mirrord.settle(10 * n * len(TUNNELS))
        assert counted(mirrord, "no_route") == dict.fromkeys(TUNNELS, (0, 10 * n))
        for remote, length in (("10.99.0.2", 32), ("2001:db8:99::2", 128)):
            source.ip(f"route delete {kind} {remote}/{length} metric 1")
        wait_for(lambda: set(told(mirrord).values()) == {("up", "")}, "all sessions up again", 30)
