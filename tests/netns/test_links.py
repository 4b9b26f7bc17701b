"""The view of a host's network, against what iproute2 set up in a namespace."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path as File
from typing import TypeVar

import pytest
import uvloop

from mirrord.control.links import Link, Links, Path, View
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
    bare = Link("eth0", eth0.index, 1600, kind="veth", master=br0.index, learning=True, qdisc="tbf")
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


def test_a_change_is_heard_even_after_messages_were_lost(net: Topology) -> None:
    host = net.host("a")
    batch = "\n".join(f"link set lo mtu {65536 - n % 2}" for n in range(2000)) + "\n"

    async def work(links: Links) -> int:
        changed = asyncio.Event()
        links.watch(changed.set)
        host.run("ip", "-batch", "-", stdin=batch)  # the loop stands still meanwhile, and the queue runs over
        sockets = host.run("cat", "/proc/net/netlink").splitlines()[1:]
        assert any(int(line.split()[8]) > 0 for line in sockets), "no message was lost"
        await asyncio.wait_for(changed.wait(), 5)
        assert (await links.read([])).links["lo"].mtu == 65535
        changed.clear()
        host.ip("link set lo mtu 1280")
        await asyncio.wait_for(changed.wait(), 5)
        return (await links.read([])).links["lo"].mtu

    assert inside(host, work) == 1280


@pytest.mark.parametrize(
    "change", ["link add d0 type veth", "address add 192.0.2.1/24 dev lo", "route add 192.0.2.0/24 dev lo"]
)
def test_what_rings_the_bell(net: Topology, change: str) -> None:
    host = net.host("a")

    async def work(links: Links) -> None:
        changed = asyncio.Event()
        links.watch(changed.set)
        host.ip(change)
        await asyncio.wait_for(changed.wait(), 5)

    inside(host, work)
