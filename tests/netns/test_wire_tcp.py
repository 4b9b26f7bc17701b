"""TCP over devices that leave segmentation to others: the copies are its segments, their stream is what was sent."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.offload import Offloader, allow_big_tcp
from tests.support.send import UNANSWERED, send
from tests.support.topology import Topology
from tests.support.wire import (
    ADDRESSES,
    FULL_FRAME,
    Wire,
    collect,
    decapsulated,
    differences,
    drain,
    from_client,
    send_at_once,
    send_file,
    session,
    stream_hash,
    wrong,
)

INNER_UNANSWERED = "udp[28:2] == 0x88b6"
CONTENT = random.Random(7).randbytes(1_500_000)


@pytest.mark.parametrize("family", [4, 6])
def test_a_file_over_tso(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, tmp_path: Path, family: int) -> None:
    wire = Wire(net, sniff, daemon, direction="both")
    sent = send_file(wire.client, wire.server, ADDRESSES[family][1], CONTENT, tmp_path)
    truth, copies, metrics = wire.finish()

    assert metrics.total("mirrord_segmented_frames_total") > 10
    assert metrics.total("mirrord_dropped_frames_total") == metrics.total("mirrord_truncated_frames_total") == 0
    assert wrong(copies) == ""
    assert max(map(len, copies.frames())) == FULL_FRAME
    assert stream_hash(copies) == sent
    assert differences(truth, copies, from_client(family, "tcp")) == []


@pytest.mark.parametrize("family", [4, 6])
def test_a_file_through_a_kernel_overlay(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, tmp_path: Path, family: int
) -> None:
    wire = Wire(net, sniff, daemon, inside=True, overlay={4: "udpcsum", 6: "noudpcsum"}[family])
    sent = send_file(wire.client, wire.server, ADDRESSES[family][1], CONTENT, tmp_path)
    truth, copies, metrics = wire.finish()

    assert metrics.total("mirrord_segmented_frames_total") > 10
    assert wrong(copies) == ""
    assert max(map(len, copies.frames())) == FULL_FRAME
    assert stream_hash(copies) == sent
    assert differences(truth, copies, from_client(family, "tcp", overlay=True)) == []


@pytest.mark.parametrize("family", [4, 6])
def test_a_file_received_with_gro(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, tmp_path: Path, family: int
) -> None:
    """PSH and IP IDs come out right too: the kernel ends a merge at PSH, and at a break in the IDs."""
    client, server, collector = net.host("client", ipv6=True), net.host("server", ipv6=True), net.host("collector")
    net.link(client, "eth0", server, "eth0", offloads=False)
    server.run("ethtool", "-K", "eth0", "gro", "on")
    for n, host in enumerate((client, server)):
        host.ip(f"address add {ADDRESSES[4][n]}/24 dev eth0")
        host.ip(f"address add {ADDRESSES[6][n]}/64 dev eth0 nodad")
    collect(net, server, collector)
    sent_frames, copies_outside = sniff(client, "eth0", "tcp"), sniff(collector, "eth0", "udp port 4789")
    mirrord = daemon(server, session("eth0", "ingress"))
    sent = send_file(client, server, ADDRESSES[family][1], CONTENT, tmp_path)
    send(client, "eth0", UNANSWERED)  # as many frames as the kernel merged them into: this one comes behind all of them
    copies_outside.wait_lines(1, INNER_UNANSWERED, 30)
    metrics = drain(mirrord, 1)
    copies = decapsulated(copies_outside.stop())

    assert metrics.total("mirrord_segmented_frames_total") > 10
    assert wrong(copies) == ""
    assert stream_hash(copies) == sent
    assert differences(sent_frames.stop(), copies, from_client(family, "tcp")) == []


@pytest.mark.parametrize("family", [4, 6])
def test_a_file_over_big_tcp(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, family: int) -> None:
    wire = Wire(net, sniff, daemon, inside=True)
    allow_big_tcp(wire.client, "eth0", 150_000)
    with Offloader(wire.client, "eth0") as tap:
        tap.listen("eth0")
        for _ in range(5):  # how much the sender makes one frame of, its congestion window decides
            sent = send_at_once(wire.client, wire.server, ADDRESSES[family][1], CONTENT)
            longest = max(len(frame.data) for frame in tap.captured())
            if longest > 1 << 16:
                break
        assert longest > 1 << 16
    truth, copies, _ = wire.finish()

    assert wrong(copies) == ""
    assert stream_hash(copies) == sent
    assert differences(truth, copies, from_client(family, "tcp")) == []
