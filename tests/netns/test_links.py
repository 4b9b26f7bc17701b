"""The view of a host's network, against what iproute2 set up in a namespace."""

from __future__ import annotations

import asyncio
import ctypes
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path as File
from typing import TypeVar

import pytest
import uvloop

from mirrord.control.host.links import Links
from mirrord.control.host.view import Link, Path, View
from tests.support.topology import Host, Topology

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
MARK = 0x10000000


def inside(host: Host, work: Callable[[Links], Coroutine[None, None, T]]) -> T:
    """Run this with the links of a host, on the event loop that the daemon uses."""
    results: list[T | BaseException] = []

    async def with_links() -> T:
        links = Links()
        try:
            return await work(links)
        finally:
            await links.close()

    def run() -> None:
        try:
            with File("/run/netns", host.name).open("rb") as namespace:
                assert ctypes.CDLL(None).setns(namespace.fileno(), CLONE_NEWNET) == 0
            results.append(uvloop.run(with_links()))
        except BaseException as error:  # noqa: BLE001 (raised below, in the test's own thread)
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def view(host: Host, *paths: Path) -> View:
    return inside(host, lambda links: links.read(paths))


def told(seen: View) -> dict[Path, tuple[int, int, str]]:
    return {path: (route.device, route.mtu, route.source) for path, route in seen.routes.items()}


def test_devices_are_told_as_they_are(net: Topology) -> None:
    host, other = net.host("a"), net.host("b")
    net.link(host, "eth0", other, "eth0", mtu=1600)
    host.ip("link add br0 type bridge")
    host.ip("link set eth0 master br0")
    host.run("tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", "1mbit", "burst", "10k", "latency", "1s")
    links = view(host).links
    eth0, br0 = links["eth0"], links["br0"]
    address = bytes.fromhex(host.mac("eth0").replace(":", ""))
    most = json.loads(host.ip("-d -j link show dev eth0"))[0]["max_mtu"]
    bare = Link("eth0", eth0.index, 1600, kind="veth", master=br0.index, learning=True, qdisc="tbf", most_mtu=most)
    assert eth0 == replace(bare, address=address)
    assert (br0.kind, br0.up, br0.master) == ("bridge", False, 0)
    host.run("bridge", "link", "set", "dev", "eth0", "learning", "off")
    assert view(host).links["eth0"].learning is False


def test_a_default_route_is_found_wherever_it_is(net: Topology) -> None:
    host, other = net.host("a", ipv6=True), net.host("b")
    for n in range(4):
        net.link(host, f"eth{n}", other, f"eth{n}", (f"192.0.2.{n * 4 + 1}/30", ""))
    host.ip("route add default nexthop via 192.0.2.2 nexthop via 192.0.2.6")
    host.ip("route add default via 192.0.2.10 table 7")
    host.ip("route add 10.0.0.0/8 via 192.0.2.14")
    seen = view(host)
    assert seen.default_routes == {seen.links[f"eth{n}"].index for n in range(3)}
    host.ip("-6 route add default dev eth3")
    assert view(host).default_routes == {seen.links[f"eth{n}"].index for n in range(4)}


def test_a_path_has_the_mtu_of_its_route_or_else_of_its_device(net: Topology) -> None:
    host, other = net.host("a"), net.host("b")
    net.link(host, "eth0", other, "eth0", ("192.0.2.1/24", ""), mtu=1600)
    net.link(host, "eth1", other, "eth1", ("198.51.100.1/24", ""))
    host.ip("route add 203.0.113.0/24 via 192.0.2.2 mtu 1400")
    host.ip("route add 203.0.113.0/24 via 198.51.100.2 table 7")
    near, far, nowhere = Path("192.0.2.9", "", MARK), Path("203.0.113.9", "", MARK), Path("233.252.0.9", "", MARK)
    seen = view(host, near, far, nowhere)
    eth0, eth1 = seen.links["eth0"].index, seen.links["eth1"].index
    assert told(seen) == {near: (eth0, 1600, "192.0.2.1"), far: (eth0, 1400, "192.0.2.1")}
    host.ip(f"rule add fwmark {MARK:#x} table 7")  # the copies' mark chooses their route
    assert told(view(host, far)) == {far: (eth1, 1500, "198.51.100.1")}


def listed(host: Host) -> tuple[dict[str, tuple[int, int]], set[str]]:
    """The devices' indexes and MTUs, and the addresses, as `ip` tells them."""
    links = json.loads(host.ip("-j link show"))
    addresses = [one["local"] for link in json.loads(host.ip("-j address show")) for one in link["addr_info"]]
    return {link["ifname"]: (link["ifindex"], link["mtu"]) for link in links}, set(addresses)


def devices_of(seen: View) -> tuple[dict[str, tuple[int, int]], set[str]]:
    return {name: (link.index, link.mtu) for name, link in seen.links.items()}, set(map(str, seen.addresses))


def test_what_was_lost_in_a_storm_is_asked_for(net: Topology) -> None:
    host = net.host("a")
    host.ip("link add gone0 type veth peer name gone1")
    host.ip("address add 192.0.2.200/32 dev gone0")
    storm = ["link delete gone0"]
    for n in range(40):
        storm += [f"link add d{n} type veth peer name e{n}", f"address add 192.0.2.{n}/32 dev d{n}"]
    storm += ["link delete d0", "link set d1 mtu 1400", "link set d2 name f2", "address delete 192.0.2.3/32 dev d3"]

    async def work(links: Links) -> None:
        changed = asyncio.Event()
        links.watch(changed.set)
        await links.read([])
        links._announcements.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least that there is
        host.run("ip", "-batch", "-", stdin="\n".join(storm) + "\n")  # the loop stands still meanwhile
        sockets = host.run("cat", "/proc/net/netlink").splitlines()[1:]
        assert any(int(line.split()[8]) > 0 for line in sockets), "no message was lost"
        await asyncio.wait_for(changed.wait(), 5)
        assert devices_of(await links.read([])) == listed(host)
        changed.clear()
        host.ip("link set lo mtu 1280")
        await asyncio.wait_for(changed.wait(), 5)
        assert devices_of(await links.read([])) == listed(host)

    inside(host, work)


def test_what_is_asked_again_is_all_that_changed(net: Topology) -> None:
    """After each change the kept picture is what a new reader is told. Some of these the kernel does not announce."""
    host, other = net.host("a", ipv6=True), net.host("b")
    # No link-local addresses (1: none): they become ready when they like, so between two readings, too.
    host.run("sysctl", "-qw", "net.ipv6.conf.all.addr_gen_mode=1", "net.ipv6.conf.default.addr_gen_mode=1")
    net.link(host, "eth0", other, "eth0", ("192.0.2.1/24", ""))
    net.link(host, "eth1", other, "eth1")
    path = Path("203.0.113.9", "", MARK)
    changes = """
        link add br0 type bridge
        link set br0 up
        link set eth1 master br0
        link set eth1 type bridge_slave learning off
        link set eth1 nomaster
        address add 2001:db8::1/64 dev eth1 nodad
        address add 198.51.100.1/24 dev eth1
        route add default via 192.0.2.2
        route add default via 198.51.100.2 metric 7
        route add 203.0.113.0/24 via 198.51.100.2 mtu 1400
        -6 route add default via 2001:db8::2
        address delete 192.0.2.1/24 dev eth0
        link set eth1 down
        link set eth1 name eth9
        link set eth9 up
        -6 rule add fwmark 1 table 7
        rule add fwmark 0x10000000 blackhole
        link set eth9 alias x
        link delete br0
    """

    async def work(links: Links) -> None:
        await links.read([path])
        for change in filter(None, map(str.strip, changes.splitlines())):
            host.ip(change)
            until = time.monotonic() + 2  # an IPv6 address may become ready between two readings
            while (kept := await links.read([path])) != (told := await asyncio.to_thread(view, host, path)):
                assert time.monotonic() < until, f"after {change}: {kept}, not {told}"
        host.ip(f"link set eth9 netns {other.name}")
        assert set((await links.read([])).links) == {"lo", "eth0"}

    inside(host, work)


@pytest.mark.parametrize(
    "change",
    [
        "link add d0 type veth",
        "address add 192.0.2.1/24 dev lo",
        "route add 192.0.2.0/24 dev lo",
        "rule add fwmark 1 table 7",
        "-6 rule add fwmark 1 table 7",
    ],
)
def test_what_rings_the_bell(net: Topology, change: str) -> None:
    host = net.host("a")

    async def work(links: Links) -> None:
        changed = asyncio.Event()
        links.watch(changed.set)
        host.ip(change)
        await asyncio.wait_for(changed.wait(), 5)

    inside(host, work)
