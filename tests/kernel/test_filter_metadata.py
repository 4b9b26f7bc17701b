"""What the kernel keeps beside a frame, in a filter: the tag it took off, the direction, the mark. On a real veth pair.

One end sends; a packet socket there sees egress with the tag still in the frame, one at the other end sees ingress with
the outermost tag in the metadata. A socket without a filter says what each frame was, a filtered one what passed.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirrord.dataplane.filter.by_device import Wanted, attach_wanted
from mirrord.dataplane.filter.rules import Direction, Reason, Rule, Selection, accepts, decide
from mirrord.dataplane.filter.several import attach
from mirrord.dataplane.frame.headers import Tag, parse
from mirrord.kernel import PACKET_OUTGOING
from tests.support.selections import MARK, frames, selections

CLONE_NEWNET = 0x40000000  # linux/sched.h
ETH_P_ALL = 3
SOL_PACKET, PACKET_AUXDATA = 263, 8
AUXDATA = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata of linux/if_packet.h
TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID = 1 << 4, 1 << 6
END = bytes(12) + b"\x88\xb5" + bytes(46)  # an ethertype for experiments: the frame after the last one


class Seen(NamedTuple):
    data: bytes
    tag: Tag | None
    egress: bool


class Tap:
    """A packet socket on a device, or on all; its filter can change, and frames wait in it."""

    def __init__(self, device: str = "") -> None:
        protocol = 0 if device else socket.htons(ETH_P_ALL)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, protocol)
        self.socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        if device:
            self.socket.bind((device, ETH_P_ALL))

    def read(self) -> Seen:
        """The next frame, within five seconds."""
        assert select.select([self.socket], [], [], 5)[0]
        data, ancillary, _, address = self.socket.recvmsg(65536, 256)
        status, _, _, _, _, tci, tpid = AUXDATA.unpack(ancillary[0][2])
        assert not status & TP_STATUS_VLAN_VALID or status & TP_STATUS_VLAN_TPID_VALID
        return Seen(data, Tag(tpid, tci) if status & TP_STATUS_VLAN_VALID else None, address[2] == PACKET_OUTGOING)

    def drain(self) -> list[Seen]:
        """Whatever waits; nothing more comes once the unfiltered tap has seen the end."""
        seen = []
        while select.select([self.socket], [], [], 0)[0]:
            seen.append(self.read())
        return seen


class Wire:
    """A veth pair, a sender on its near end, and on either end a tap without a filter and one to filter."""

    def __init__(self) -> None:
        self.sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.sender.bind(("near", 0))
        self.filtered = [Tap("near"), Tap("far")]
        self.every = [Tap("near"), Tap("far")]
        self.everywhere = Tap()
        self.indexes = [socket.if_nametoindex(device) for device in ("near", "far")]

    def send(self, frame: bytes, mark: int) -> None:
        self.sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        self.sender.send(frame)

    def seen(self) -> list[tuple[list[Seen], list[Seen]]]:
        """At the near end and at the far end: every frame, and those that passed the filter."""
        self.send(END, 0)
        result = []
        for every, filtered in zip(self.every, self.filtered, strict=True):
            frames = [every.read()]
            while frames[-1].data != END:
                frames.append(every.read())
            result.append((frames[:-1], [frame for frame in filtered.drain() if frame.data != END]))
        return result

    def close(self) -> None:
        for opened in (self.sender, *(tap.socket for tap in (*self.filtered, *self.every, self.everywhere))):
            opened.close()


def _in_namespace(name: str, made: list[Wire]) -> None:
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY)
    assert ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) == 0
    os.close(descriptor)
    made.append(Wire())


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    name = f"mirrord-filter-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    cpus = os.sched_getaffinity(0)
    try:
        subprocess.run(
            ["ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"], check=True
        )
        subprocess.run(["ip", "-n", name, "link", "add", "near", "type", "veth", "peer", "name", "far"], check=True)
        for device in ("near", "far"):
            subprocess.run(["ip", "-n", name, "link", "set", device, "up"], check=True)
        made: list[Wire] = []
        thread = threading.Thread(target=_in_namespace, args=(name, made))
        thread.start()
        thread.join()
        os.sched_setaffinity(0, {min(cpus)})  # one CPU delivers in order: what is before the end is seen before it
        yield made[0]
        made[0].close()
    finally:
        os.sched_setaffinity(0, cpus)
        subprocess.run(["ip", "netns", "del", name], check=True)


def check(wire: Wire, selection: Selection, sent: list[tuple[bytes, int]]) -> set[tuple[Reason, bool, bool]]:
    """Hold what passed against the matcher. Gives the reasons seen, for egress or not, with a metadata tag or not."""
    for tap in wire.filtered:
        assert attach(tap.socket, selection)
    for frame, mark in sent:
        wire.send(frame, mark)
    reasons = set()
    for every, passed in wire.seen():
        assert len(every) == len(sent)
        expected = []
        for seen, (_, mark) in zip(every, sent, strict=True):
            decision = decide(selection, parse(seen.data, seen.tag), egress=seen.egress, mark=mark)
            reasons.add((decision.reason, seen.egress, seen.tag is not None))
            expected += [seen] if decision.accept else []
        assert passed == expected
    return reasons


# The kernel drops a frame that ends within the tag it would take off: as on a real wire, none is shorter than 60 bytes.
WHOLE = frames().map(lambda frame: frame.ljust(60, b"\0"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    selection=selections(),
    sent=st.lists(st.tuples(WHOLE, st.sampled_from([0, MARK, MARK | 1])), max_size=6),
)
def test_kernel_runs_what_the_matcher_means_on_a_wire(
    wire: Wire, selection: Selection, sent: list[tuple[bytes, int]]
) -> None:
    check(wire, selection, sent)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wanted=st.tuples(*(st.lists(selections(), max_size=2) for _ in range(2))),
    of_others=st.lists(selections(), max_size=4),
    sent=st.lists(st.tuples(WHOLE, st.sampled_from([0, MARK, MARK | 1])), max_size=6),
)
def test_a_socket_on_all_devices_takes_what_is_wanted_of_each(
    wire: Wire, wanted: tuple[list[Selection], ...], of_others: list[Selection], sent: list[tuple[bytes, int]]
) -> None:
    """The near end sends and the far end receives. Devices that are not there have the program read more."""
    ends = [Wanted(index, one) for index, several in zip(wire.indexes, wanted, strict=True) for one in several]
    others = [Wanted(1000 + 2 * n, one) for n, one in enumerate(of_others)]
    exact = attach_wanted(wire.everywhere.socket, tuple(dict.fromkeys((*ends, *others))))
    wire.everywhere.drain()
    for frame, mark in sent:
        wire.send(frame, mark)
    everything = wire.seen()
    passed = [seen for seen in wire.everywhere.drain() if seen.data != END]
    for several, (every, _), egress in zip(wanted, everything, (True, False), strict=True):
        expected = []
        for seen, (_, mark) in zip(every, sent, strict=True):
            headers = parse(seen.data, seen.tag)
            if any(accepts(one, headers, egress=egress, mark=mark) for one in several):
                expected.append(seen)
        here = [seen for seen in passed if seen.egress == egress]
        assert here == expected or (not exact and set(expected) <= set(here))


def test_tag_direction_and_mark(wire: Wire) -> None:
    """Each kind of metadata decides at least once, at either end, and the taps see what the test is about."""
    plain = bytes(12) + b"\x08\x00" + bytes(46)
    tagged = bytes(12) + b"\x88\xa8\x60\x05\x81\x00\x00\x6f" + plain[12:]
    sent = [(plain, 0), (tagged, 0), (plain, MARK), (tagged, MARK)]
    vlan = Selection(vlans=frozenset({5}), mark=MARK, mark_mask=MARK)
    assert check(wire, vlan, sent) >= {
        (Reason.NO_FILTER, True, False),
        (Reason.NO_FILTER, False, True),
        (Reason.VLAN, True, False),
        (Reason.MARKED, True, False),
        (Reason.MARKED, False, True),
    }
    ingress = Selection(direction=Direction.INGRESS, rules=(Rule(1, accept=True, vlan=5, ethertype=0x0800),))
    assert check(wire, ingress, sent) == {
        (Reason.DIRECTION, True, False),
        (Reason.RULE, False, True),
        (Reason.UNMATCHED, False, False),
    }
    egress = Selection(rules=(Rule(1, accept=True, direction=Direction.EGRESS, vlan=5),))
    assert check(wire, egress, sent) >= {(Reason.RULE, True, False), (Reason.UNMATCHED, False, True)}
