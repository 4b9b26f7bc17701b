"""Devices that nobody mirrors, and what they send, by the kernel's counters.

host a ---- b peer
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mirrord.control.host import bystanders
from mirrord.control.host.bystanders import too_busy
from mirrord.dataplane.netns import find
from tests.support.meanwhile import meanwhile
from tests.support.send import udp_frame
from tests.support.topology import Host, Topology

RATE = 200  # frames a second, far below what any machine sends
FRAME = udp_frame(("02:00:00:00:00:01", "10.0.0.1", 9), ("02:00:00:00:00:02", "10.0.0.2", 9))


@contextmanager
def sending(host: Host, *devices: str) -> Iterator[None]:
    """As fast as it goes, in turn, until this ends."""
    sockets = [host.open_socket(socket.AF_PACKET, socket.SOCK_RAW) for _ in devices]
    for sock, device in zip(sockets, devices, strict=True):
        sock.bind((device, 0))

    def send_one_each() -> None:
        for sock in sockets:
            sock.send(FRAME)

    try:
        with meanwhile(send_one_each):
            yield
    finally:
        for sock in sockets:
            sock.close()


def test_only_what_others_send_and_only_where_it_is_most(net: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    host, peer = net.host("host"), net.host("peer")
    for number in (1, 2):
        net.link(host, f"a{number}", peer, f"b{number}")
    netns, far = find(host.name), find(peer.name)
    monkeypatch.setattr(bystanders, "MOST", RATE)
    with sending(host, "a1", "a1"):  # for a while, so that the counters say that it has been busy
        pass
    assert too_busy({netns: {"a1"}}) == frozenset()  # nothing is sent
    with sending(host, "a1"):
        while host.counter("a1", "tx", "packets") < RATE:
            pass
        assert too_busy({netns: {"a2"}}) == {netns}
        assert too_busy({netns: {"a1"}}) == frozenset()  # it is mirrored itself
        assert too_busy({netns: {"a2"}, far: {"b2"}}) == {netns}  # there it is received, which costs next to nothing
    with sending(host, "a1", "a2"):
        assert too_busy({netns: {"a2"}}) == frozenset()  # those that are mirrored carry as much
