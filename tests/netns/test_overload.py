"""More than fits: of the conversations some are mirrored whole, in place of all of them with holes.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections import Counter, defaultdict

import pytest

from mirrord.dataplane.forward.conversation import Conversations
from mirrord.dataplane.frame.headers import parse
from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.send import send_each, udp_frame
from tests.support.sniffer import Recording
from tests.support.source import session, source_and_collector
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

STREAMS, LENGTH = 100, 200_000
OFFERED, LIMIT = 80, 16  # Mbit/s
LIMITED = f'ring_size = "64MiB"\noverload = "flows"\nrate_limit = "{LIMIT}Mbit"'

RECEIVE = f"""
import selectors, socket
listening = socket.create_server(("10.1.0.1", 7000), backlog={STREAMS})
print("listening", flush=True)
chosen, left = selectors.DefaultSelector(), {STREAMS}
chosen.register(listening, selectors.EVENT_READ)
while left:
    for key, _ in chosen.select():
        if key.fileobj is listening:
            chosen.register(listening.accept()[0], selectors.EVENT_READ)
        elif not key.fileobj.recv(1 << 16):
            chosen.unregister(key.fileobj)
            key.fileobj.close()
            left -= 1
"""

SEND = f"""
import hashlib, json, random, selectors, socket
chosen, told = selectors.DefaultSelector(), {{}}
for n in range({STREAMS}):
    data = random.Random(n).randbytes({LENGTH})
    made = socket.create_connection(("10.1.0.1", 7000))
    made.setblocking(False)
    told[made.getsockname()[1]] = hashlib.sha256(data).hexdigest()
    chosen.register(made, selectors.EVENT_WRITE, [data, 0])
while chosen.get_map():
    for key, _ in chosen.select():
        data, at = key.data
        key.data[1] = at + key.fileobj.send(data[at : at + 8192])
        if key.data[1] == len(data):
            chosen.unregister(key.fileobj)
            key.fileobj.close()
print(json.dumps(told))
"""


def streams(recording: Recording) -> dict[int, str]:
    """The hash of what tshark finds in each connection that was sent to port 7000, by its source port."""
    parts: dict[int, dict[int, bytes]] = defaultdict(dict)
    rows = recording.fields("tcp.srcport", "tcp.seq", "tcp.payload", expression="tcp.dstport == 7000 && tcp.len > 0")
    for port, sequence, payload in rows:
        parts[int(port)][int(sequence)] = bytes.fromhex(payload)
    return {port: _hash(of) for port, of in parts.items()}


def _hash(parts: dict[int, bytes]) -> str:
    """Of the bytes in order; with a hole, of what is before it. The first byte is number 1, behind the SYN."""
    data = b""
    for sequence, part in sorted(parts.items()):
        if sequence - 1 > len(data):
            break
        data = data[: sequence - 1] + part if sequence - 1 + len(part) > len(data) else data
    return hashlib.sha256(data).hexdigest()


def in_at(recording: Recording, rate: int) -> set[int]:
    """The source ports of the connections that are sampled at this rate."""
    found = set()
    for frame in recording.frames("tcp dst port 7000 and tcp[tcpflags] & tcp-syn != 0"):
        headers = parse(frame)
        if headers.source_port and Conversations().hash(headers)[0] % (1 << 32) % rate == 0:
            found.add(headers.source_port)
    return found


def converse(client: Host, source: Host) -> dict[int, str]:
    """Send them all at once, at what the shaper lets through; the hash of each, by its source port."""
    receiver = client.spawn(sys.executable, "-c", RECEIVE)
    wait_for(lambda: "listening" in receiver.output(), "the receiver listens")
    sender = source.spawn(sys.executable, "-c", SEND)
    assert sender.wait(90) == 0, sender.output()
    assert receiver.wait(30) == 0, receiver.output()
    return {int(port): told for port, told in json.loads(sender.output()).items()}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_stays_in_arrives_whole(net: Topology, daemon: MakeDaemon, sniff: MakeSniffer, workers: int) -> None:
    """However many workers divide the source: they agree on the rate."""
    client, source, collector = source_and_collector(net)
    client.ip("address add 10.1.0.1/24 dev eth0")
    source.ip("address add 10.1.0.2/24 dev nic")
    source.run(*f"tc qdisc add dev nic root tbf rate {OFFERED}mbit burst 100kb limit 30mb".split())
    copies, sent = sniff(collector, "vxlan0"), sniff(source, "nic", "tcp[tcpflags] & tcp-syn != 0")
    mirrord = daemon(
        source, session(f'ring_size = "64MiB"\noverload = "flows"\nrate_limit = "{LIMIT}Mbit"\nworkers = {workers}')
    )
    told = converse(client, source)
    began = sent.stop()
    metrics = mirrord.settle(STREAMS * LENGTH // 65536)

    rate = int(metrics.total("mirrord_sampling_rate"))
    assert OFFERED / LIMIT / 2 <= rate <= 16 * OFFERED / LIMIT
    arrived = streams(copies.stop())
    stay = in_at(began, rate)
    assert stay
    assert {port: arrived.get(port) for port in stay} == {port: told[port] for port in stay}
    assert metrics.total("mirrord_skipped_frames_total", reason="rate_limited") == 0
    assert metrics.total("mirrord_dropped_frames_total") == 0
    left_out = metrics.total("mirrord_skipped_frames_total", reason="sampled_out")
    assert left_out == metrics.total("mirrord_captured_frames_total") - metrics.total("mirrord_mirrored_frames_total")
    assert "not everything fits, conversations give way (overload)" in mirrord.output()


PAIRS, ROUND_SECONDS = 100, 0.1
STANDS_STILL = 1.4  # seconds: the ring's 512 blocks end after 4 ms each, full or not


def test_a_ring_that_fills_lets_whole_conversations_give_way(
    net: Topology, daemon: MakeDaemon, sniff: MakeSniffer
) -> None:
    """While the daemon stands still, so many blocks of its ring fill that it begins with fewer; none is lost."""
    client, source, collector = source_and_collector(net)
    frames = [
        udp_frame(("02:00:00:00:00:01", f"10.1.0.{n + 1}", 1000), ("02:00:00:00:00:02", "10.2.0.1", 2000))
        for n in range(PAIRS)
    ]
    copies = sniff(collector, "vxlan0", "udp port 2000")
    mirrord = daemon(source, session('capture = "ring"\nring_size = "256MiB"\noverload = "flows"'))
    rounds, begun = 0, time.monotonic()
    os.kill(mirrord.pid, signal.SIGSTOP)
    try:
        while time.monotonic() - begun < STANDS_STILL:
            send_each(client, "eth0", frames, rate=PAIRS / ROUND_SECONDS)
            rounds += 1
    finally:
        os.kill(mirrord.pid, signal.SIGCONT)
    metrics = mirrord.settle(PAIRS * rounds)

    rate = int(metrics.total("mirrord_sampling_rate"))
    assert rate > 1
    assert metrics.total("mirrord_dropped_frames_total") == 0
    left_out = metrics.total("mirrord_skipped_frames_total", reason="sampled_out")
    assert metrics.total("mirrord_mirrored_frames_total") == PAIRS * rounds - left_out > 0
    assert left_out > 0
    arrived = Counter(parse(frame).source for frame in copies.stop().frames())
    known = [parse(frame) for frame in frames]
    stay = {one.source for one in known if Conversations().hash(one)[0] % (1 << 32) % rate == 0}
    assert {address: arrived[address] for address in stay} == dict.fromkeys(stay, rounds)
