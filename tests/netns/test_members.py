"""Members of a tap that end together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.forward import encap
from mirrord.dataplane.netns import find
from mirrord.dataplane.pipeline import Pipeline
from mirrord.dataplane.tap import Tap
from mirrord.plans import CapturePlan, DevicePlan, ForwardPlan, PipelinePlan
from tests.support.calls import calls
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

MARK = 0x10000000


@pytest.fixture
def host(net: Topology) -> Host:
    mirror = net.host("mirror")
    for device in ("tap0", "sink"):
        mirror.ip(f"link add {device} type ifb")
        mirror.ip(f"link set {device} up")
    return mirror


@contextmanager
def members(host: Host, devices: Sequence[str], *, native: bool) -> Iterator[list[Pipeline]]:
    """A pipeline for each of these devices, to be captured together."""
    netns = find(host.name)
    selection = Selection(mark=MARK, mark_mask=MARK)
    sink = DevicePlan("sink", host.index("sink"), MARK, netns)
    with ExitStack() as opened:
        made = []
        for device in devices:
            capture = CapturePlan(
                device, host.index(device), selection, mode="auto", ring_size=4 << 20, netns=netns, together=True
            )
            made.append(Pipeline(PipelinePlan(capture, ForwardPlan(encap.bare()), sink), native=native))
            opened.callback(made[-1].close)
        yield made


def test_an_end_of_many_costs_as_much_more_as_there_are_more(host: Host, dataplane: str) -> None:
    native, costs = dataplane == "native", []
    for count in (20, 80):
        with members(host, ["tap0"] * count, native=native) as pipelines, ExitStack() as opened:
            tap = Tap(pipelines, native=native)
            opened.callback(tap.close)
            going = pipelines[1:]
            wait_for(tap.drained, "nothing waits")

            def end(tap: Tap = tap, going: list[Pipeline] = going) -> None:
                tap.leave(going)
                assert len(tap.have_left(going)) == len(going)
                tap.drop(going)

            costs.append(calls(end))
    assert costs[1] < 6 * costs[0], costs
