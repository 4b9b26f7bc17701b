"""The Debian package in a machine of its own: Debian 12's kernel and systemd, NICs with drivers of two kinds.

`make vm-test`; not one of `make test`: QEMU emulates it all, which takes minutes. In one boot, and in this order:
README's session, then faults that a network namespace cannot have, then what else leads frames and copies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether

from tests.netns.test_packages import deb, dist
from tests.support.appliance_vm import ADDRESSES, NICS, OUTSIDE, Lab, inside
from tests.support.daemon import ROOT
from tests.support.qemu import Machine, mac
from tests.support.send import send, send_each
from tests.support.topology import Topology
from tests.support.wait import wait_for

pytestmark = pytest.mark.timeout(1500)

__all__ = ["deb", "dist"]  # fixtures

README = (ROOT / "README.md").read_text()
SESSION = re.search(r"```toml\n(\[\[mirrors\.mine\.sessions\]\]\n.*?)```", README, re.DOTALL)
STEP = r"^    ((?:apt-get install|cp mirror|systemctl reload|mirrorctl status).*?)(?:  +#.*)?$"
INSTALL = re.findall(STEP, README.partition("## Install")[2].partition("Where no systemd runs")[0], re.MULTILINE)
E1000E = """
[[mirrors.lab.sessions]]
name = "e1000e"
source = "eth2"
destination = { type = "vxlan", remote = "10.3.0.2", vni = 2 }

[[mirrors.lab.sessions]]
name = "tagged"
source = "eth2.5"
destination = { type = "vxlan", remote = "192.0.2.10", vni = 3 }
"""
VLAN_DEVICE = """
ip link add link eth2 name eth2.5 type vlan id 5
ip address add 10.9.0.1/24 dev eth2.5
ip link set eth2.5 up
ip neighbour replace 10.9.0.2 lladdr {mac} dev eth2.5
"""
RECEIVERS = {
    "geneve": ("geneve id 21 remote 10.77.0.1", 'type = "geneve", vni = 21'),
    "gretap": ("gretap key 22 local 10.77.0.2 remote 10.77.0.1", 'type = "gre", key = 22'),
    "erspan2": (
        "erspan seq key 23 erspan_ver 1 local 10.77.0.2 remote 10.77.0.1",
        'type = "erspan", erspan_type = "II", session_id = 23',
    ),
    "erspan3": (
        "erspan seq key 24 erspan_ver 2 erspan_dir ingress erspan_hwid 0 local 10.77.0.2 remote 10.77.0.1",
        'type = "erspan", erspan_type = "III", session_id = 24',
    ),
    "vxlan": ("vxlan id 25 dstport 4789 local 10.77.0.2", 'type = "vxlan", vni = 25'),
}
"""The kernel's own devices, as iproute2 makes them, and what goes to them."""


TOKENS = "handle 1: tbf rate 1mbit burst 5kb latency 100ms"
BEHIND_THEM = "tc qdisc replace dev eth1 parent 1:1 handle 2: fq_codel limit 50"


@pytest.fixture(scope="module")
def lab(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Topology() as net:
        outside, directory = net.host("outside"), tmp_path_factory.mktemp("machine")
        with Machine(ROOT / "build/disk", outside, NICS, deb.parent, directory) as machine:
            yield Lab(machine, outside, directory)


def test_readmes_session(lab: Lab) -> None:
    assert SESSION is not None
    lab.machine.write("/root/mirror.toml", SESSION[1])
    lab.machine.sh("ln -s /mnt /root/dist")
    assert len(INSTALL) == 4
    for command in INSTALL:
        said = lab.machine.sh(f"cd /root; {command}", seconds=600)
    assert re.search(r"^mine +nic +eth0 .* up ", said, re.MULTILINE), said
    told = lab.machine.sh("systemctl show mirrord -p ActiveState -p NRestarts").split()
    assert sorted(told) == ["ActiveState=active", "NRestarts=0"]
    lab.ping(1, 1)  # the next hop is known
    before, wire, copies = lab.counts("nic"), lab.sniff(0), lab.sniff(1, 1)
    assert lab.ping(0) == 5
    lab.settled("nic", before, 10)
    carried = wire.stop().frames()
    assert sorted(inside(copies).frames()) == sorted(carried)
    assert (lab.counts("nic") - before).whole


def test_a_carrier_is_lost_and_back(lab: Lab) -> None:
    """Of the way out, then of the source."""
    lab.machine.sh(VLAN_DEVICE.format(mac=lab.outside.mac("wire2")))
    lab.apply(E1000E)
    lab.ping(3, 1)
    before = lab.counts("e1000e")
    assert lab.ping(2) == 5
    assert lab.settled("e1000e", before, 10).dropped == 0

    lab.machine.plug(3, up=False)
    lab.carrier(3, up=False)
    told = "eth3, by which copies leave, has no carrier"
    wait_for(lambda: told in lab.machine.run("mirrorctl", "status"), "it is told", 60)
    before = lab.counts("e1000e")
    assert lab.ping(2) == 5
    counted = lab.settled("e1000e", before, 10)
    assert counted.dropped == counted.captured
    assert lab.dropped("e1000e")["link_down"] >= counted.dropped
    lab.machine.plug(3, up=True)
    lab.carrier(3, up=True)
    lab.up()
    _recovers(lab, "e1000e", 2, 3)

    lab.machine.plug(0, up=False)
    lab.carrier(0, up=False)
    assert lab.ping(0) == 0
    lab.machine.plug(0, up=True)
    lab.carrier(0, up=True)
    _recovers(lab, "nic", 0, 1)


def _recovers(lab: Lab, session: str, source: int, way_out: int) -> None:
    """The next frames are all mirrored, and arrive."""
    lab.up()
    wait_for(lambda: lab.ping(way_out, 1) == lab.ping(source, 1) == 1, "both ends know each other again", 30)
    before, copies = lab.counts(session), lab.sniff(way_out, 2 if session == "e1000e" else 1)
    assert lab.ping(source) == 5
    counted = lab.settled(session, before, 10)
    assert counted.whole
    assert len(inside(copies).lines("icmp")) == 10


def test_drivers_are_unloaded_and_loaded_again_under_traffic(lab: Lab) -> None:
    """That of the way out and of a source, then the other source's: sessions follow the new devices by their names."""
    ended = Event()

    def traffic() -> None:
        while not ended.is_set():
            lab.ping(0, 40)
            lab.ping(2, 40)

    thread = Thread(target=traffic)
    thread.start()
    try:
        lab.machine.sh("modprobe -r e1000e; sleep 1; modprobe e1000e")
        lab.address(1)
        lab.address(2)
        lab.machine.sh(VLAN_DEVICE.format(mac=lab.outside.mac("wire2")))
        lab.up()
        driver = "/sys/bus/virtio/drivers/virtio_net"
        lab.machine.sh(
            "d=$(basename $(readlink /sys/class/net/eth0/device));"
            f"echo $d >{driver}/unbind; sleep 1; echo $d >{driver}/bind"
        )
        lab.address(0)
    finally:
        ended.set()
        thread.join()
    _recovers(lab, "nic", 0, 1)
    _recovers(lab, "e1000e", 2, 3)
    assert lab.dropped("nic").keys() <= {"no_route", "link_down", "ring_full"}


@pytest.mark.parametrize("offloads", ["off", "on"])
def test_vlan_and_checksum_offloads_of_a_driver(lab: Lab, offloads: str) -> None:
    """With e1000e's VLAN stripping and insertion, its checksums of what is sent (which QEMU writes where the frame is
    read from) and its word on received ones, and without: what is mirrored is what the wire carries, tag for tag.
    """
    features = " ".join(f"{one} {offloads}" for one in ("rx", "tx", "rxvlan", "txvlan"))
    lab.machine.sh(f"ethtool -K eth2 {features} tso off gso off gro off; sleep 1; ip link set eth2 up")
    lab.carrier(2, up=True)
    lab.machine.sh(f"ip neighbour replace 10.9.0.2 lladdr {lab.outside.mac('wire2')} dev eth2.5")
    lab.apply(E1000E.replace("10.3.0.2", "192.0.2.10"))
    wait_for(lambda: lab.ping(2, 1) == lab.ping(1, 1) == 1, "all know each other", 30)
    link = Ether(src=lab.outside.mac("wire2"), dst=mac(2))
    packet = IP(src="10.9.0.2", dst="10.9.0.1") / UDP(sport=1, dport=9) / bytes(32)
    echoes = [
        bytes(link / Dot1Q(vlan=5, prio=3) / IP(src="10.9.0.2", dst="10.9.0.1") / ICMP(id=7, seq=n) / bytes(32))
        for n in range(5)
    ]
    deeper = [
        bytes(link / Dot1AD(vlan=9) / Dot1Q(vlan=5) / packet),
        bytes(link / Dot1Q(vlan=5) / Dot1Q(vlan=7) / packet),
    ]
    before, tagged_before = lab.counts("e1000e"), lab.counts("tagged")
    wire, whole, tagged = lab.sniff(2), lab.sniff(1, 2), lab.sniff(1, 3)
    send_each(lab.outside, "wire2", echoes + deeper)
    lab.settled("tagged", tagged_before, 2 * len(echoes) + 1)
    lab.stream(2)
    lab.settled("e1000e", before, 200)
    wire.stop()
    carried = wire.frames()
    assert sorted(inside(whole).frames()) == sorted(carried)
    without = [one[:12] + one[16:] for one in wire.frames("vlan 5") if one[12:14] == b"\x81\0"]
    assert len(without) == 2 * len(echoes) + 1
    assert sorted(inside(tagged).frames()) == sorted(without)


def test_super_frames_and_unfinished_checksums_of_virtio(lab: Lab) -> None:
    lab.apply(E1000E + '[[mirrors.lab.sessions]]\nname = "virtio"\nsource = "eth3"\n'
              'destination = { type = "vxlan", remote = "192.0.2.10", vni = 4 }\n')  # fmt: skip
    lab.ping(3, 1)
    copies = lab.sniff(1, 4)
    lab.stream(3)
    lab.counts("virtio")
    frames = inside(copies)
    assert lab.metrics().total("mirrord_segmented_frames_total", session="virtio") > 0
    assert max(map(len, frames.frames("tcp"))) == 1514
    checks = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
    assert frames.tshark(*checks, expression="tcp.checksum.status == 0 || ip.checksum.status == 0") == ""
    assert frames.tshark(expression="tcp.analysis.lost_segment || tcp.analysis.ack_lost_segment") == ""


def test_what_a_queue_drops(lab: Lab) -> None:
    """What netem refuses is counted. fq_codel takes a copy and drops another one, which the queue alone counts."""
    frame = bytes(Ether(src=lab.outside.mac("wire0"), dst=mac(0)) / IP(src=OUTSIDE[0], dst=ADDRESSES[0]) / UDP(dport=9))
    for script, told in (
        ("tc qdisc replace dev eth1 root fq_codel", True),
        ("tc qdisc replace dev eth1 root netem delay 100ms limit 50", True),
        (
            f"tc qdisc replace dev eth1 root {TOKENS}; {BEHIND_THEM}",
            False,
        ),
    ):
        lab.machine.sh(script)
        before, arriving = lab.counts("nic"), lab.sniff(1, 1)
        send(lab.outside, "wire0", frame.ljust(150, b"\0"), 1500, rate=3000)
        counted = lab.settled("nic", before, 1500)
        wait_for(lambda: lab.queue("backlog") == 0, "the queue is empty", 60)
        arrived = len(arriving.stop().lines())
        lost = 0 if told else lab.queue("drops")
        assert counted.mirrored == arrived + lost, script
        assert counted.captured == counted.mirrored + counted.dropped
        assert bool(lost) != told
        if "netem" in script:
            assert counted.dropped > 0
    assert "eth1 is shaped (tbf)" in lab.machine.run("mirrorctl", "doctor", "mine", check=False)
    lab.machine.sh("tc qdisc delete dev eth1 root")


def test_the_kernels_own_tunnel_devices_take_the_copies(lab: Lab) -> None:
    add = [
        f"ip -n sink link add {name} type {words}; ip -n sink link set {name} up"
        for name, (words, _) in RECEIVERS.items()
    ]
    lab.machine.sh("\n".join([
        "ip netns add sink; ip link add up9 mtu 2000 type veth peer name up9 mtu 2000 netns sink",
        "ip netns exec sink sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1",
        "ip address add 10.77.0.1/24 dev up9; ip link set up9 up",
        "ip -n sink address add 10.77.0.2/24 dev up9; ip -n sink link set up9 up", *add,
    ]))  # fmt: skip
    lab.apply("".join(
        f'[[mirrors.sink.sessions]]\nname = "{name}"\nsource = "eth0"\n'
        f'destination = {{ remote = "10.77.0.2", {words} }}\n'
        for name, (_, words) in RECEIVERS.items()
    ))  # fmt: skip
    lab.machine.run("ping", "-c", "1", "10.77.0.2")
    before = {name: lab.counts(name) for name in RECEIVERS}
    received = lab.received("sink")
    assert lab.ping(0, 10) == 10
    for name in RECEIVERS:
        counted = lab.settled(name, before[name], 20)
        assert counted.whole

    def arrived(name: str) -> bool:
        there = lab.received("sink")[name] - received[name]
        return there == (lab.counts(name) - before[name]).mirrored

    for name in RECEIVERS:  # hosts talk of their own accord, too
        wait_for(lambda: arrived(name), f"{name} has what was sent to it", 30)  # noqa: B023 (called here)


def test_copies_through_the_kernels_wireguard(lab: Lab) -> None:
    lab.machine.sh("""
umask 077
wg genkey >/root/a
wg genkey >/root/b
ip netns add far; ip link add up8 type veth peer name up8 netns far
ip address add 10.88.0.1/24 dev up8; ip link set up8 up
ip -n far address add 10.88.0.2/24 dev up8; ip -n far link set up8 up; ip -n far link set lo up
ip link add wg0 type wireguard; ip -n far link add wg0 type wireguard
wg set wg0 listen-port 51820 private-key /root/a \\
    peer $(wg pubkey </root/b) endpoint 10.88.0.2:51820 allowed-ips 10.200.0.0/24
ip netns exec far wg set wg0 listen-port 51820 private-key /root/b \\
    peer $(wg pubkey </root/a) endpoint 10.88.0.1:51820 allowed-ips 10.200.0.0/24
ip address add 10.200.0.1/24 dev wg0; ip link set wg0 up
ip -n far address add 10.200.0.2/24 dev wg0; ip -n far link set wg0 up
ping -c 1 -W 5 10.200.0.2
ip -n far link add vx type vxlan id 8 dstport 4789; ip -n far link set vx up
""")
    lab.apply('[[mirrors.far.sessions]]\nname = "far"\nsource = "eth0"\n'
              'destination = { type = "vxlan", remote = "10.200.0.2", vni = 8 }\n')  # fmt: skip
    before, received = lab.counts("far"), lab.received("far")["vx"]
    assert lab.ping(0, 10) == 10
    counted = lab.settled("far", before, 20)
    assert counted.whole

    def arrived() -> bool:
        return lab.received("far")["vx"] - received == (lab.counts("far") - before).mirrored

    wait_for(arrived, "what was sent has arrived", 30)


def test_a_bond_fails_over(lab: Lab) -> None:
    """Its first NIC loses its carrier: what the other one carries is mirrored on, each packet once."""
    lab.apply("")
    lab.outside.add_bridge("lan", "wire2", "wire3")
    lab.outside.ip("address add 10.6.0.2/24 dev lan")
    lab.machine.sh("""
ip link delete eth2.5; ip link set eth2 down; ip link set eth3 down
ip link add bond0 type bond mode active-backup miimon 100
ip link set eth3 master bond0; ip link set eth2 master bond0
ip address add 10.6.0.1/24 dev bond0; ip link set bond0 up
""")
    lab.apply('[[mirrors.lab.sessions]]\nname = "bond"\nsource = "bond0"\n'
              'destination = { type = "vxlan", remote = "192.0.2.10", vni = 6 }\n')  # fmt: skip
    lab.ping(1, 1)
    ping = ("ping", "-c", "5", "-i", "0.05", "-W", "2", "10.6.0.1")

    def answered() -> bool:
        return " 5 received" in lab.outside.run(*ping, check=False)

    def slave() -> str:
        return lab.machine.sh("cat /sys/class/net/bond0/bonding/active_slave").strip()

    for active, lost in (("eth3", None), ("eth2", 3)):
        if lost is not None:
            lab.machine.plug(lost, up=False)
        wait_for(lambda: slave() == active, f"the bond uses {active}", 30)  # noqa: B023 (called here)
        wait_for(answered, "the bond answers", 30)
        before, copies = lab.counts("bond"), lab.sniff(1, 6)
        assert answered()
        counted = lab.settled("bond", before, 10)
        assert counted.whole
        assert len(inside(copies).lines("icmp")) == 10


def test_control_groups_of_systemd(lab: Lab) -> None:
    """By version 2, as systemd sets them: little time, and too little memory, after which the service comes again."""
    frame = bytes(Ether(src=lab.outside.mac("wire0"), dst=mac(0)) / IP(src=OUTSIDE[0], dst=ADDRESSES[0]) / UDP(dport=9))
    lab.machine.sh("systemctl set-property --runtime mirrord CPUQuota=20%")
    before = lab.counts("nic")
    send(lab.outside, "wire0", frame.ljust(150, b"\0"), 2000, rate=2000)
    lab.settled("nic", before, 2000)
    lab.machine.sh("systemctl set-property --runtime mirrord CPUQuota=")
    lab.machine.sh("systemctl set-property --runtime mirrord MemoryMax=16M", check=False)

    def restarted() -> bool:
        return lab.machine.sh("systemctl show mirrord -p NRestarts --value").strip() != "0"

    wait_for(restarted, "it was killed, and comes again", 120)
    assert "oom-kill" in lab.machine.sh("journalctl -u mirrord -o cat --no-pager")
    lab.machine.sh("systemctl set-property --runtime mirrord MemoryMax=infinity")
    lab.machine.sh("systemctl reset-failed mirrord; systemctl start mirrord", seconds=120)
    _recovers(lab, "nic", 0, 1)


def test_what_differs_from_the_kernel_of_the_other_tests(lab: Lab) -> None:
    """docs/faults.md tells of each."""
    release = lab.machine.run("uname", "-r").strip()
    assert release.startswith("6.1."), release
    assert lab.machine.run("sysctl", "-n", "net.core.default_qdisc").strip() == "fq_codel"  # by systemd
    assert "the kernel refuses UDP GSO" in lab.machine.sh("journalctl -u mirrord -o cat --no-pager")  # before 6.2
    assert json.loads(lab.machine.run("mirrorctl", "--json", "status"))["dataplane"] == "native"
