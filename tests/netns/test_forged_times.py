"""Times that a sender of Geneve metadata tells and that cannot be: they are carried on, and nothing else goes by them.

[forger] eth0 ---- eth0 [relay]
"""

from __future__ import annotations

import time
from pathlib import Path

from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapNgReader

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.appliance import marked, missing, session
from tests.support.captures import fields
from tests.support.ctl import ctl
from tests.support.send import send
from tests.support.streams import PORT, Reader
from tests.support.topology import Topology, acquaint
from tests.support.wait import wait_for

SECOND = 10**9
YEAR = 365 * 86400 * SECOND
ERSPAN_TICK = 100  # nanoseconds; draft-foschiano-erspan-03 4.3, Gra = 01


def stamps(file: Path) -> list[tuple[bytes, int]]:
    """The packets of a pcapng file and their nanoseconds."""
    with RawPcapNgReader(str(file)) as reader:
        return [(data, about.tshigh << 32 | about.tslow) for data, about in reader]


def test_forged_times_harm_nothing(net: Topology, daemon: MakeDaemon, sniff: MakeSniffer, tmp_path: Path) -> None:
    """Each frame is mirrored, in the order in which it came; none is missing, the latency and the recorder's stamps are
    the relay's own. Zeros tell no time: it is the relay's.
    """
    forger, relay = net.host("forger"), net.host("relay")
    net.link(forger, "eth0", relay, "eth0", ("10.98.0.1/24", "10.98.0.2/24"), mtu=1600)
    acquaint(relay, "eth0", "10.98.0.2", forger, "eth0", "10.98.0.1")
    file = tmp_path / "captures" / "file.pcapng"
    file.parent.mkdir()
    ways = {
        "file": f'{{ type = "file", path = "{file}", rotate_seconds = 3600 }}',
        "stream": f'{{ type = "pcap", listen = "127.0.0.1:{PORT}", format = "pcap" }}',
        "metadata": '{ type = "geneve", remote = "10.98.0.1", vni = 8, metadata = true }',
        "erspan": '{ type = "erspan", remote = "10.98.0.1", erspan_type = "III", session_id = 9 }',
    }
    source = '{ type = "geneve", local = "10.98.0.2", vni = 7 }'
    sessions = "".join(session(name, source, way, 'recorder = "1MiB"') for name, way in ways.items())
    mirrord = daemon(relay, sessions, up=False, capture_directories=[str(file.parent)])
    reader = Reader.connect(relay)
    wait_for(lambda: mirrord.metrics().total("mirrord_session_up") == len(ways), "all run", 60)
    copies = sniff(forger, "eth0", "src host 10.98.0.2")

    begun = time.time_ns()
    past, future = [0, 1, SECOND - 1, begun - YEAR], [begun + 10 * YEAR, SECOND << 32, 1 << 63, (1 << 64) - 1]
    forged = [begun, *past, *future, 0, begun - 1]
    sent = [marked(number) for number in range(len(forged))]
    to = Ether(src=forger.mac("eth0"), dst=relay.mac("eth0")) / IP(src="10.98.0.1", dst="10.98.0.2")
    for number, (frame, told) in enumerate(zip(sent, forged, strict=True)):
        data = b"\0\1\0\0" + told.to_bytes(8, "big") + (5).to_bytes(4, "big") + number.to_bytes(4, "big")
        metadata = GeneveOptions(classid=0xFF6D, type=1, data=data)
        tunnel = UDP(sport=50000, dport=6081, chksum=0) / GENEVE(vni=7, proto=0x6558, options=[metadata])
        send(forger, "eth0", bytes(to / tunnel / frame))
    metrics = mirrord.settle(captured=len(ways) * len(forged))
    ended = time.time_ns()

    assert metrics.total("mirrord_mirrored_frames_total") == len(ways) * len(forged)
    assert {name: missing(mirrord, name) for name in ways} == dict.fromkeys(ways, 0)
    assert metrics.total("mirrord_forward_latency_seconds_count") == len(ways) * len(forged)
    assert metrics.total("mirrord_forward_latency_seconds_sum") <= len(ways) * len(forged) * (ended - begun) / SECOND
    kept = tmp_path / "kept.pcapng"
    ctl(mirrord.socket, "capture", "m/erspan", "--last", "1m", "-w", str(kept))
    assert [frame for frame, _ in stamps(kept)] == sent
    assert all(begun <= stamp <= ended for _, stamp in stamps(kept))
    wait_for(lambda: reader.packets == sent, "the stream")
    mirrord.stop()

    def carried(found: list[int], kept: int = 1 << 64, tick: int = 1) -> None:
        """What a copy has room for of each."""
        assert len(found) == len(forged)
        for stamp, told in zip(found, forged, strict=True):
            if told:
                assert stamp == told // tick % kept
            else:
                assert begun // tick <= stamp + begun // tick // kept * kept <= ended // tick

    (written,) = file.parent.iterdir()
    assert [frame for frame, _ in stamps(written)] == sent
    carried([stamp for _, stamp in stamps(written)])
    assert len(fields(written, "frame.number")) == len(sent)  # tshark minds none of them
    carried([stamp % (SECOND << 32) for stamp in reader.stamps], SECOND << 32)
    reader.close()
    copies.stop()
    outer = copies.frames("udp port 6081")
    assert [copy[-len(sent[0]) :] for copy in outer] == sent
    at = 14 + 20 + 8 + 8 + 4  # Ethernet, IP, UDP, Geneve, the option's header
    carried([int.from_bytes(copy[at + 4 : at + 12], "big") for copy in outer])
    outer = copies.frames("proto gre")
    assert [copy[-len(sent[0]) :] for copy in outer] == sent
    at = 14 + 20 + 8 + 4  # Ethernet, IP, GRE with its number, the first four bytes
    carried([int.from_bytes(copy[at : at + 4], "big") for copy in outer], 1 << 32, ERSPAN_TICK)
