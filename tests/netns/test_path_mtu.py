"""Copies larger than the path MTU: cut to the byte, in outer fragments that the kernel puts together again, or dropped.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

import socket

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.daemon import Daemon
from tests.support.send import send, udp_frame
from tests.support.source import OVER_IPV4, OVER_IPV6, Underlay, linked
from tests.support.topology import Host, Topology, receive_vxlan
from tests.support.wait import wait_for


@pytest.fixture(params=[OVER_IPV4, OVER_IPV6], ids=["ipv4", "ipv6"])
def underlay(request: pytest.FixtureRequest) -> Underlay:
    assert isinstance(request.param, Underlay)
    return request.param


def configuration(remote: str, on_mtu_exceeded: str) -> str:
    return f"""
[[mirrors.m.sessions]]
name = "s"
direction = "ingress"
source = "nic"
destination = {{ type = "vxlan", remote = "{remote}", vni = 7 }}
on_mtu_exceeded = "{on_mtu_exceeded}"
"""


def frame(length: int, port: int) -> bytes:
    made = udp_frame(("02:00:00:00:00:01", "10.1.0.1", port), ("02:00:00:00:00:02", "10.1.0.2", 2000), length=length)
    return made[:42] + bytes(n % 251 for n in range(length - 42))


def build(net: Topology, underlay: Underlay) -> tuple[Host, Host, Host]:
    client, source, collector = linked(net, underlay)
    receive_vxlan(collector, vni=7, local=underlay.collector)
    return client, source, collector


def wait_limit(mirrord: Daemon, mtu: int, underlay: Underlay) -> int:
    """The longest frame that this path MTU can carry, once the daemon goes by it."""
    limit = mtu - underlay.ip_header - 8 - 8
    wait_for(lambda: f"frame_limit={limit}" in mirrord.output(), f"a path MTU of {mtu}")
    return limit


@pytest.mark.parametrize("on_mtu_exceeded", ["truncate", "fragment", "drop"])
def test_the_path_mtu_is_kept_and_followed(
    net: Topology, underlay: Underlay, daemon: MakeDaemon, sniff: MakeSniffer, on_mtu_exceeded: str
) -> None:
    client, source, collector = build(net, underlay)
    outer, inner = sniff(collector, "eth0"), sniff(collector, "vxlan0", "ether src 02:00:00:00:00:01")
    mirrord = daemon(source, configuration(underlay.collector, on_mtu_exceeded))
    assert "carries frames of" not in mirrord.output()  # 1600 bytes do for the source's 1514

    sent: list[tuple[bytes, int]] = [(frame(1514, 1000), 1600)]
    send(client, "eth0", sent[0][0])
    mirrord.settle(1)
    for mtu, changes in (
        (1400, [f"route add {underlay.collector} dev uplink mtu lock 1400"]),  # the route's word, not the device's
        (1300, [f"route delete {underlay.collector} dev uplink", "link set uplink mtu 1300"]),
    ):
        for change in changes:
            source.ip(change)
        limit = wait_limit(mirrord, mtu, underlay)
        sent += [(frame(length, mtu + length), mtu) for length in (60, limit, limit + 1, 1514)]
        for one, _ in sent[-4:]:
            send(client, "eth0", one)
        metrics = mirrord.settle(len(sent))
    output = mirrord.stop()[1]

    fates = {"truncate": "truncated", "fragment": "fragmented", "drop": "dropped"}
    (warning,) = [line for line in output.splitlines() if "1400" in line and "warning" in line]
    said = f"{underlay.collector}, 1400, carries frames of {1400 - underlay.ip_header - 16} bytes, but those of nic"
    assert said in warning
    assert f"have up to 1514: longer ones are {fates[on_mtu_exceeded]}" in warning
    assert "mirror=m session=s source=nic" in warning

    too_large = [(one, mtu) for one, mtu in sent if len(one) + underlay.ip_header + 16 > mtu]
    assert len(too_large) == 4
    altered = {
        "truncated": metrics.total("mirrord_truncated_frames_total"),
        "fragmented": metrics.total("mirrord_fragmented_frames_total"),
        "dropped": metrics.total("mirrord_dropped_frames_total", reason="mtu_exceeded"),
    }
    assert altered == dict.fromkeys(altered, 0) | {fates[on_mtu_exceeded]: 4}
    whole = [one for one, mtu in sent if (one, mtu) not in too_large]
    if on_mtu_exceeded == "truncate":
        expected = [one[: mtu - underlay.ip_header - 16] for one, mtu in sent]
        lengths = [len(packet) - 14 for packet in outer.stop().frames("udp port 4789")]
        assert lengths == [min(len(one) + underlay.ip_header + 16, mtu) for one, mtu in sent]
        assert [packet[14 + underlay.ip_header + 16 :] for packet in outer.frames("udp port 4789")] == expected
    elif on_mtu_exceeded == "fragment":
        assert inner.stop().frames() == [one for one, _ in sent]
        fragments = "ip.flags.mf == 1 || ip.frag_offset > 0" if underlay is OVER_IPV4 else "ipv6.fraghdr.offset"
        lengths = [int(row[0]) - 14 for row in outer.stop().fields("frame.len", expression=fragments)]
        assert len(lengths) == 2 * 4
        assert max(lengths) <= 1400
    else:
        assert inner.stop().frames() == whole
    if on_mtu_exceeded != "fragment":
        assert metrics.total("mirrord_mirrored_frames_total") == (9 if on_mtu_exceeded == "truncate" else 5)


@pytest.mark.parametrize("on_mtu_exceeded", ["truncate", "drop"])
def test_a_device_takes_its_own_mtu_and_no_more(
    net: Topology, daemon: MakeDaemon, sniff: MakeSniffer, on_mtu_exceeded: str
) -> None:
    client, source, _ = build(net, OVER_IPV4)
    source.ip("link set uplink mtu 1000")
    sniffer = sniff(source, "uplink", "udp port 2000")
    span = '{ type = "device", device = "uplink" }'
    session = configuration("", on_mtu_exceeded).replace('{ type = "vxlan", remote = "", vni = 7 }', span)
    mirrord = daemon(source, session)
    frames = [frame(length, length) for length in (1014, 1015, 1514)]
    for one in frames:
        send(client, "eth0", one)
    metrics = mirrord.settle(3)
    kept = frames if on_mtu_exceeded == "truncate" else frames[:1]
    assert sniffer.stop().frames() == [one[:1014] for one in kept]
    assert metrics.total("mirrord_dropped_frames_total", reason="mtu_exceeded") == 3 - len(kept)
    assert metrics.total("mirrord_truncated_frames_total") == len(kept) - 1


def test_a_start_with_too_small_a_path_mtu_is_warned_of(net: Topology, daemon: MakeDaemon) -> None:
    _, source, _ = build(net, OVER_IPV4)
    source.ip("link set uplink mtu 1500")
    output = daemon(source, configuration(OVER_IPV4.collector, "truncate")).stop()[1]
    (warning,) = [line for line in output.splitlines() if "warning" in line]
    assert "the path MTU to 10.99.0.2, 1500, carries frames of 1464 bytes, but those of nic have up to 1514" in warning
    assert "mirror=m session=s source=nic" in warning


def test_a_smaller_mtu_that_a_router_tells_of_is_followed(
    net: Topology, underlay: Underlay, daemon: MakeDaemon, sniff: MakeSniffer
) -> None:
    client, source, router = net.host("client"), net.host("source", ipv6=True), net.host("router", ipv6=True)
    collector = net.host("collector", ipv6=True)
    far = underlay.collector.replace("99", "98")
    family, length = ("-6", 64) if ":" in far else ("-4", 24)
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    net.link(client, "eth0", source, "nic")
    net.link(source, "uplink", router, "near", underlay.addresses, mtu=1600)
    gateway = f"{far.rpartition('2')[0]}1"
    addresses = (f"{gateway}/{length} {underlay.nodad}", f"{far}/{length} {underlay.nodad}")
    net.link(router, "far", collector, "eth0", addresses, mtu=1400)
    source.ip(f"{family} route add {far} via {underlay.collector}")
    collector.ip(f"{family} route add default via {gateway}")
    receive_vxlan(collector, vni=7, local=far)
    sniffer = sniff(collector, "eth0", "udp port 4789")
    mirrord = daemon(source, configuration(far, "truncate"))

    full, sent = frame(1514, 1000), 0

    def arrived() -> list[bytes]:
        nonlocal sent
        send(client, "eth0", full)
        sent += 1
        return sniffer.frames()

    arrivals = wait_for(arrived, "copies of a size that the router forwards")
    metrics = mirrord.settle(sent)
    assert len(arrivals[0]) == 14 + 1400
    assert metrics.total("mirrord_truncated_frames_total") >= 1
    assert metrics.total("mirrord_dropped_frames_total") == metrics.total(
        "mirrord_dropped_frames_total", reason="mtu_exceeded"
    )


def test_a_frame_that_fits_no_packet_is_dropped_and_said_to_be(
    net: Topology, underlay: Underlay, daemon: MakeDaemon, sniff: MakeSniffer
) -> None:
    _, source, collector = build(net, underlay)
    inner = sniff(collector, "vxlan0", "udp port 4000", snaplen=65600)
    setting = configuration(underlay.collector, "fragment").replace('"nic"', '"lo"')
    rule = '{ priority = 1, action = "accept", protocol = "udp", destination_ports = "4000" }'  # no scrape of metrics
    mirrord = daemon(source, f'{setting}filter = "ours"\n[filters.ours]\nrules = [{rule}]\n')
    # RFC 791, 3.1 and RFC 8200, 3: the length is in 16 bits, which over IPv6 does not count the header itself.
    longest = 65535 - (20 if underlay is OVER_IPV4 else 0) - 8 - 8
    lengths = [100, longest, longest + 1, 14 + 65535]
    with source.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as receiving:
        receiving.bind(("127.0.0.1", 4000))
        for length in lengths:
            receiving.sendto(bytes(length - 42), ("127.0.0.1", 4000))
    metrics = mirrord.settle(4)
    output = mirrord.stop()[1]
    assert [len(one) for one in inner.stop().frames()] == lengths[:2]
    assert metrics.total("mirrord_dropped_frames_total", reason="mtu_exceeded") == 2
    assert metrics.total("mirrord_fragmented_frames_total") == 1
    assert metrics.unaccounted() == 0
    said = f"longer ones are fragmented, and those of more than {longest}, which fit no IP packet, dropped"
    assert f"have up to 65550: {said}" in output
