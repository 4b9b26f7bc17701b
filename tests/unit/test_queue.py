"""Queues of a stream: what a client takes out is what was put in, whole; what becomes of each frame is told once."""

from __future__ import annotations

import io
import struct

from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import RawPcapReader

from mirrord.dataplane.forward.step import Copy
from mirrord.dataplane.transmit import pcapng
from mirrord.dataplane.transmit.queue import Bell, Channel, Fates, Queues, put

SIZE = 4096


def copy(number: int, length: int) -> Copy:
    packet = bytes([number & 255]) * length
    header = pcapng.packet_header(length, length + 1, 1_700_000_000_123_456_789 + number)
    return Copy(header + packet, 0, pcapng.packet_trailer(length, egress=False))


FRAMES = st.lists(st.lists(st.integers(0, 1500), min_size=1, max_size=4), max_size=60)  # the lengths of their copies


@given(FRAMES, st.lists(st.integers(0, 3000), max_size=60), st.booleans())
def test_each_client_has_whole_records_of_all_that_it_had_room_for(
    frames: list[list[int]], takes: list[int], pcap: bool
) -> None:
    queues, slow, quick = Queues(pcap=pcap, interface=3), Channel(SIZE, Bell()), Channel(1 << 20, Bell())
    taken = {slow: bytearray(), quick: bytearray()}

    def take(channel: Channel, most: int) -> None:
        data = channel.waiting(channel.row.head)[:most]
        taken[channel] += data
        channel.row.tail += len(data)

    expected, whole, full = [], 0, []
    for number, lengths in enumerate(frames):
        copies = [copy(number, length) for length in lengths]
        accepted = put(queues, [slow, quick], copies)
        assert (accepted == len(copies)) == (queues.queued > whole)
        whole = queues.queued
        expected += copies
        full += copies[:accepted]
        take(slow, takes[number] if number < len(takes) else 0)
        take(quick, 100)
    for channel in (slow, quick):
        while channel.row.tail < channel.row.head:
            take(channel, SIZE)
    assert decoded(taken[quick], pcap=pcap) == [packet(one) for one in expected]
    assert decoded(taken[slow], pcap=pcap) == [packet(one) for one in full]
    for channel in (slow, quick):
        channel.acked = channel.row.head
        assert channel.done() == whole


def packet(one: Copy) -> tuple[bytes, int]:
    """The packet, and the number that is in its time."""
    high, low, captured = struct.unpack_from("<III", one.data, 12)
    return one.data[28 : 28 + captured], (high << 32 | low) % 1000


def decoded(stream: bytearray, *, pcap: bool) -> list[tuple[bytes, int]]:
    """By scapy for a pcap file; block by block, as the draft has them, for pcapng (interface 3 has no description)."""
    if pcap:
        header = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1)
        with RawPcapReader(io.BytesIO(header + stream)) as reader:
            return [(data, about.usec % 1000) for data, about in reader]
    found = []
    while stream:
        kind, length, interface, high, low, captured, _ = struct.unpack_from("<IIIIIII", stream)
        assert (kind, interface) == (6, 3)
        assert struct.unpack_from("<I", stream, length - 4) == (length,)
        found.append((bytes(stream[28 : 28 + captured]), (high << 32 | low) % 1000))
        del stream[:length]
    return found


@given(st.data())
def test_a_frame_is_lost_once_however_many_connections_end(data: st.DataObject) -> None:
    fates, last, has = Fates(), 0, [0, 0, 0]  # what each client has got
    lost: set[int] = set()
    for _ in range(data.draw(st.integers(0, 30))):
        match data.draw(st.sampled_from(["queue", "get", "settle", "end"])):
            case "queue":
                last += data.draw(st.integers(0, 9))
            case "get":
                client = data.draw(st.integers(0, 2))
                has[client] = data.draw(st.integers(has[client], last))
            case "settle":
                fates.settle(min(has))
            case "end":
                client = data.draw(st.integers(0, 2))
                missed = set(range(max(has[client], fates.settled) + 1, last + 1))
                assert fates.lose(max(has[client], fates.settled), last) == len(missed - lost)
                lost |= missed
                has[client] = last  # another one, that gets what comes from now on
        assert fates.open(last) == len(set(range(fates.settled + 1, last + 1)) - lost)
