"""A pipeline where something fails half-way, on either data plane: told, counted, and nothing left behind.

client eth0 ---- nic [source] uplink ---- eth0 [collector]
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from mirrord.dataplane.capture.packet_socket import BLOCK_SIZE
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.rules import Rule, Selection
from mirrord.dataplane.forward import encap
from mirrord.dataplane.forward.encap import Template
from mirrord.dataplane.pipeline import Pipeline
from mirrord.plans import CapturePlan, DevicePlan, ForwardPlan, PipelinePlan, TunnelPlan
from tests.support.alone import Alone
from tests.support.send import FRAME, send
from tests.support.source import linked
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

REJECTED = [Rule(n, accept=False, sources=(ip_network(f"192.0.2.{n}/32"),)) for n in range(1, 250)]
ALL, LONG = Selection(), Selection(rules=(*REJECTED, Rule(999, accept=True)))


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host]:
    client, source, _ = linked(net)
    return client, source


def plan(source: Host, mode: str = "ring", ring_size: int = 8 << 20, selection: Selection = ALL) -> PipelinePlan:
    capture = CapturePlan("nic", source.index("nic"), selection, mode=mode, ring_size=ring_size)
    return PipelinePlan(capture, ForwardPlan(encap.bare()), DevicePlan("uplink", source.index("uplink")))


def matches_again(one: Alone) -> bool:
    assert one.pipeline.matches is not None
    return not one.pipeline.matches.exact


def mirrored(one: Alone) -> int:
    """After another turn."""
    one.tap.run()
    return one.pipeline.counters[Slot.mirrored]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (its own are closed with the list)


def test_a_reading_tells_the_error_that_it_comes_upon(hosts: tuple[Host, Host], dataplane: str) -> None:
    """A plain socket that was ready when its device went: the error is told once, to whoever reads first."""
    client, source = hosts
    one = source.call(lambda: Alone(plan(source, mode="socket"), native=dataplane == "native"))
    try:
        send(client, "eth0", FRAME, 3)
        source.ip("link set nic down")
        for _ in range(3):  # an error is told before what waits, or after
            one.tap.run()
        assert one.pipeline.failure == os.strerror(errno.ENETDOWN)
        assert one.pipeline.counters[Slot.captured] == one.pipeline.counters[Slot.mirrored] == 3
        assert one.tap.drained()
    finally:
        one.close()


def test_a_pipeline_that_cannot_be_made_leaves_nothing_open(hosts: tuple[Host, Host]) -> None:
    """By the native plane: what it is given is checked when all else is open already."""
    _, source = hosts
    too_long = replace(plan(source), forward=ForwardPlan(Template(bytes(1000), ())))
    before = descriptors()
    for bad in (too_long, replace(too_long, transmit=TunnelPlan("10.99.0.2", 4789))):
        with pytest.raises(ValueError, match=r"."):
            source.call(lambda: Pipeline(bad, native=True))  # noqa: B023
    assert descriptors() == before


@pytest.fixture
def little_room(hosts: tuple[Host, Host]) -> Iterator[None]:
    """For filters, in the source."""
    source = hosts[1]
    before = source.run("sysctl", "-n", "net.core.optmem_max")
    source.run("sysctl", "-qw", "net.core.optmem_max=2048")
    yield
    source.run("sysctl", "-qw", f"net.core.optmem_max={before.strip()}")


def test_what_the_kernel_takes_whole_is_not_matched_again(
    hosts: tuple[Host, Host], little_room: None, dataplane: str
) -> None:
    """A coarse filter gives way to an exact one when the capture moves to where there is room for it."""
    del little_room
    client, source = hosts
    one = source.call(lambda: Alone(plan(source, "auto", selection=LONG), native=dataplane == "native"))
    switch = one.tap.mode_switch
    assert switch is not None
    try:
        assert matches_again(one)
        source.run("sysctl", "-qw", "net.core.optmem_max=131072")
        switch.expect(source.call(lambda: switch.prepare("ring")))
        one.tap.succeed().close()
        assert one.tap.capture.exact
        assert not matches_again(one)
        send(client, "eth0", FRAME, 3)
        wait_for(lambda: mirrored(one) == 3, "frames by the exact filter")
    finally:
        one.close()


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def test_a_ring_that_there_is_no_memory_for_is_halved(hosts: tuple[Host, Host], dataplane: str) -> None:
    client, source = hosts

    def open_with_little() -> Alone:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + 24 * BLOCK_SIZE, hard))
        try:
            return Alone(plan(source, ring_size=64 * BLOCK_SIZE), native=dataplane == "native")
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    one = source.call(open_with_little)
    try:
        assert one.tap.captures_by == "ring, of 8192 KiB: no memory for 32768 KiB"
        send(client, "eth0", FRAME, 3)
        wait_for(lambda: mirrored(one) == 3, "frames by the smaller ring")
        assert one.tap.drained()
    finally:
        one.close()
    whole = source.call(lambda: Alone(plan(source, ring_size=64 * BLOCK_SIZE), native=dataplane == "native"))
    assert whole.tap.captures_by == ""
    whole.close()
