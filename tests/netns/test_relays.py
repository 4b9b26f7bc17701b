"""Relays: what a daemon of ours received through a tunnel, it sends on to another one, to the end of the chain.

nic [source] eth0 ---- eth0 [relay] eth1 ---- eth0 [appliance]
"""

from __future__ import annotations

from pathlib import Path

from scapy.layers.inet import UDP
from scapy.utils import RawPcapNgReader

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.appliance import FRAMES, marked, missing, pair, session
from tests.support.packets import LINK, V4
from tests.support.send import send
from tests.support.sniffer import Recording
from tests.support.topology import Topology
from tests.support.wait import wait_for


def test_a_chain_ends_in_a_file_with_the_nics_own_frames(net: Topology, daemon: MakeDaemon, tmp_path: Path) -> None:
    """NIC, VXLAN, a relay, ERSPAN III, a file: three daemons of ours."""
    source, relay, appliance = net.host("source"), net.host("relay"), net.host("appliance")
    net.link(source, "eth0", relay, "eth0", ("10.98.0.1/24", "10.98.0.2/24"), mtu=1600)
    net.link(relay, "eth1", appliance, "eth0", ("10.99.0.1/24", "10.99.0.2/24"), mtu=1600)
    pair(source, "nic", "nic-peer")
    captures = tmp_path / "captures"
    captures.mkdir()
    file = captures / "end.pcapng"
    on_appliance = daemon(
        appliance,
        session("in", '{ type = "erspan", local = "10.99.0.2" }', f'{{ type = "file", path = "{file}" }}'),
        capture_directories=[str(captures)],
    )
    to_appliance = '{ type = "erspan", remote = "10.99.0.2", erspan_type = "III", session_id = 7 }'
    on_relay = daemon(relay, session("relay", '{ type = "vxlan", local = "10.98.0.2" }', to_appliance))
    to_relay = '{ type = "vxlan", remote = "10.98.0.2", vni = 1 }'
    on_source = daemon(source, session("out", '"nic"', to_relay, 'direction = "ingress"'))

    flows = [LINK / V4 / UDP(sport=port, dport=2000) for port in range(3001, 3009)]
    numbered = [[bytes(flow / n.to_bytes(18, "big")) for n in range(25)] for flow in flows]
    sent = FRAMES + [frame for turn in zip(*numbered, strict=True) for frame in turn]
    for frame in sent:
        send(source, "nic-peer", frame)
    for mirrord in (on_source, on_relay, on_appliance):
        metrics = mirrord.settle(captured=len(sent))
        assert metrics.total("mirrord_mirrored_frames_total") == len(sent)
        mirrord.stop()

    with RawPcapNgReader(str(file)) as reader:
        written = [data for data, _ in reader]
    assert sorted(written) == sorted(sent)
    for flow in numbered:
        assert [frame for frame in written if frame in flow] == flow, "in order within a flow"


def test_a_relay_carries_direction_and_time_on_from_the_nic(
    net: Topology, daemon: MakeDaemon, sniff: MakeSniffer, tmp_path: Path
) -> None:
    """NIC, Geneve with metadata, a relay's files: direction and nanoseconds are those of a capture on the NIC."""
    source, relay = net.host("source"), net.host("relay")
    net.link(source, "eth0", relay, "eth0", ("10.98.0.1/24", "10.98.0.2/24"), mtu=1600)
    pair(source, "nic", "nic-peer")
    captures = tmp_path / "captures"
    captures.mkdir()
    rules = '[filters.sent]\nrules = [ { priority = 1, direction = "egress", action = "accept" } ]\n'
    received = '{ type = "geneve", local = "10.98.0.2", vni = 7 }'
    files = {name: captures / f"{name}.pcapng" for name in ("all", "sent", "as-ingress")}
    on_relay = daemon(
        relay,
        rules
        + "".join(
            session(name, received, f'{{ type = "file", path = "{file}" }}', more)
            for (name, file), more in zip(
                files.items(), ('direction = "both"', 'direction = "both"\nfilter = "sent"', ""), strict=True
            )
        ),
        capture_directories=[str(captures)],
    )
    on_nic = sniff(source, "nic")
    to_relay = '{ type = "geneve", remote = "10.98.0.2", vni = 7, metadata = true }'
    on_source = daemon(source, session("out", '"nic"', to_relay, 'transmit = "socket"'))

    sent = [marked(n) for n in range(10)]
    begins_anew = 6  # what comes before are 3 that the road loses: nobody has this address
    source.ip("neighbour replace 10.98.0.2 dev eth0 lladdr " + relay.mac("eth0"))
    for n, frame in enumerate(sent):
        if n == begins_anew:
            source.ip("neighbour replace 10.98.0.2 dev eth0 lladdr 02:00:00:00:00:99")
            send(source, "nic-peer", marked(99), count=3)
            on_source.settle(captured=n + 3)
            source.ip("neighbour replace 10.98.0.2 dev eth0 lladdr " + relay.mac("eth0"))
        send(source, "nic" if n % 2 else "nic-peer", frame)
        on_source.settle(captured=n + 1 + 3 * (n >= begins_anew))
    assert on_source.metrics().total("mirrord_mirrored_frames_total") == len(sent) + 3  # as far as it can know
    on_source.stop()
    each = dict.fromkeys(files, 3)
    wait_for(lambda: {name: missing(on_relay, name) for name in files} == each, "what was lost on the road")
    metrics = on_relay.settle(captured=3 * len(sent))
    assert metrics.total("mirrord_skipped_frames_total", session="sent", reason="unmatched") == len(sent) / 2
    assert metrics.total("mirrord_read_frames_total", session="all", direction="egress") == len(sent) / 2
    assert metrics.total("mirrord_dropped_frames_total") == 0
    on_relay.stop()

    stamps = [row[0] for row in on_nic.stop().fields("frame.time_epoch")]
    del stamps[begins_anew : begins_anew + 3]
    assert len(stamps) == len(sent)
    directions = [f"0x0000000{1 + n % 2}" for n in range(len(sent))]  # draft-ietf-opsawg-pcapng 4.3.1: 1 in, 2 out
    rows = [[stamp, direction] for stamp, direction in zip(stamps, directions, strict=True)]
    for name, expected in (("all", rows), ("sent", rows[1::2]), ("as-ingress", rows)):
        assert Recording(files[name]).fields("frame.time_epoch", "frame.packet_flags_direction") == expected, name
