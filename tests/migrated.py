"""VMs that migrate live in a cluster, by libvirt and QEMU: `make migrated`, as root, two minutes of a machine at rest.

Not among the other tests: on a machine with other work to do, software emulation loses its way (a VM that goes on, and
does not answer for a minute). tests/unit/test_derive.py has what follows from the states that libvirt tells, and
tests/scenarios/test_guests.py real VMs that stop and start.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import pairwise

import pytest

from tests.conftest import MakeSniffer
from tests.support.cluster import Cluster, Member, member
from tests.support.ctl import ctl
from tests.support.etcd import Store
from tests.support.guests import Hypervisor
from tests.support.process import Process
from tests.support.sniffer import Sniffer
from tests.support.topology import Topology
from tests.support.wait import wait_for

pytestmark = pytest.mark.timeout(600)

VM1 = "52:54:00:00:01:00", "52:54:00:00:01:01"
VM2 = "52:54:00:00:02:00"
ADDRESS = "10.1.225.37"
ANSWER_SECONDS = 180
"""How long a VM may take: under software emulation, on a machine with other work, it stands still for a while."""
SLOWLY = 24
"""MB/s: a VM of people's use takes its time, too."""


@pytest.fixture(scope="module")
def hypervisor() -> Iterator[Hypervisor]:
    """A host with VM-1, which has two NICs, and VM-2, which answers ping; both are ports of br0."""
    with Topology() as net:
        host = net.host("hv")
        host.add_bridge("br0")
        host.ip("address add 10.1.225.124/24 dev br0")
        with closing(Hypervisor(host)) as made:
            made.define("VM-1", "10.1.225.36/24", *VM1)
            made.define("VM-2", f"{ADDRESS}/24", VM2, words="iperf3")
            made.virsh("start", "VM-1")  # nobody looks into it
            made.start("VM-2")
            yield made


@pytest.fixture(scope="module")
def other(hypervisor: Hypervisor) -> Iterator[Hypervisor]:
    """Another host that VMs may migrate to: its br0 is of the same Ethernet."""
    with Topology() as net:
        host = net.host("hv2")
        with closing(Hypervisor(host)) as made:
            host.add_bridge("br0")
            net.link(hypervisor.host, "trunk", host, "trunk")
            for each in (hypervisor.host, host):
                each.ip("link set dev trunk master br0")
            yield made


@pytest.fixture(scope="module")
def cluster(hypervisor: Hypervisor, other: Hypervisor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The two, and a host without VMs whose `tap7` is a source; etcd is on one of its own."""
    with Topology() as net:
        hosts = (hypervisor.host, other.host, net.host("c"))
        store_host = net.host("store")
        net.lan({**{host: f"10.0.0.{n}/24" for n, host in enumerate(hosts, 1)}, store_host: "10.0.0.9/24"})
        switch = net.host("switch")
        for host in hosts:
            net.link(host, "em02", switch, host.label, mtu=1600)
        switch.add_bridge("br0", *(host.label for host in hosts))
        net.link(hosts[2], "tap7", net.host("vm"), "eth0", ("10.7.0.1/24", "10.7.0.2/24"))
        net.link(hosts[2], "tap8", net.host("sink"), "eth0")
        store = Store(store_host, tmp_path_factory.mktemp("etcd"), address="10.0.0.9")
        store.start()
        members: list[Member] = []
        for host, under in zip(hosts, (hypervisor.under, other.under, ()), strict=True):
            directory = tmp_path_factory.mktemp(host.label)
            members.append(member(host, directory, store, begin=not members, under=under))
        made = Cluster(store, tuple(members))
        made.a.ctl("network", "create", "flow0", "--addresses", "192.168.29.10-192.168.29.20/24")
        made.a.ctl("create", "core", "--flow-network", "flow0", "--enable")
        yield made
        for each in members:
            each.stop()


def test_a_vm_that_migrates_is_mirrored_without_loss_or_doubles_also_without_the_store(
    hypervisor: Hypervisor, other: Hypervisor, cluster: Cluster, sniff: MakeSniffer
) -> None:
    host, a = hypervisor.host, cluster.a
    to = "type=vm,vm=VM-1,nic=1,isolate=true"
    a.ctl("session", "add", "core", "nic", "--source", f"type=vm,vm=VM-2,nic={VM2}", "--destination", to)
    wait_for(lambda: states(cluster, 0) == {"core/nic": "up", "core/nic.in": "up"}, "it runs", 20)
    wait_for(lambda: has_address(cluster, 1), "the other host is prepared", 20)
    received = sniff(host, hypervisor.device("VM-1", VM1[1]), "icmp")
    ping = host.spawn("ping", "-i", "0.02", ADDRESS)
    hypervisor.migrate("VM-2", other, SLOWLY)
    tap = other.device("VM-2", VM2)
    wait_for(lambda: states(cluster, 1) == {"core/nic": "up"}, "the source is mirrored at the other host", 30)
    wait_for(lambda: states(cluster, 0) == {"core/nic.in": "up"}, "and not at the first one any more", 30)
    before = len(answered(ping.output()))
    wait_for(lambda: len(answered(ping.output())) > before + 50, "it answers", ANSWER_SECONDS)
    cluster.store.freeze()
    other.migrate("VM-2", hypervisor, SLOWLY)
    before = len(answered(ping.output()))
    wait_for(lambda: len(answered(ping.output())) > before + 50, "it answers", ANSWER_SECONDS)
    ping.stop(signal.SIGINT)
    cluster.store.thaw()
    expected = Counter((kind, number) for number in answered(ping.output()) for kind in ("request", "reply"))
    copies = copied(received.stop().lines())
    assert {one: count for one, count in copies.items() if count > 1} == {}
    assert not expected - copies, (sorted(expected - copies), answered(ping.output()), cluster.shown())
    assert tap


@pytest.mark.parametrize(
    ("protocol", "way", "away"),
    [
        ("udp", "the guest sends", ""),
        ("udp", "the guest receives", "without the store"),
        ("tcp", "the guest sends", "without the store"),
        ("tcp", "the guest receives", ""),
    ],
)
def test_each_frame_of_a_stream_at_the_nic_of_a_vm_that_migrates_is_copied_once(
    hypervisor: Hypervisor, other: Hypervisor, cluster: Cluster, sniff: MakeSniffer, protocol: str, way: str, away: str
) -> None:
    """iperf3 in the guest. tcpdump sees all devices of both hosts, and so the NIC's before it is there."""
    numbers = (0, 1) if hypervisor.device("VM-2", VM2) else (1, 0)
    first, second = ((hypervisor, other)[number] for number in numbers)
    stream(cluster)
    wait_for(lambda: states(cluster, numbers[0]) == {"core/stream": "up"}, "it runs", 60)
    devices = {first.host: first.host.index(first.device("VM-2", VM2))}
    seen = {one.host: sniff(one.host, "any", "port 5201") for one in (first, second)}
    copies = sniff(cluster.members[2].host, "tap8", "port 5201")
    dropped: dict[tuple[int, str], int] = {}

    def runs(number: int) -> bool:
        """Whether the source half runs at this host; what the halves drop is looked at each time."""
        for each, one in enumerate(cluster.members):
            for name, row in one.rows().items():
                dropped[each, name] = sum(row["counters"]["dropped_frames"].values())
        return states(cluster, number) == {"core/stream": "up"}

    options = ["--udp", "--length", "400"] if protocol == "udp" else ["--length", "1000"]
    options += ["--reverse"] if way == "the guest sends" else []
    client = hypervisor.host.spawn("iperf3", "--client", ADDRESS, "--time", "600", "--bitrate", "800K", *options)
    more(copies, client, "the stream flows at the first host", *seen.values())
    if away:
        cluster.store.freeze()
    first.migrate("VM-2", second, SLOWLY)
    devices[second.host] = second.host.index(second.device("VM-2", VM2))
    wait_for(lambda: runs(numbers[1]), "it runs at the second host", 60)
    wait_for(lambda: not runs(numbers[0]), "and not at the first one any more", 60)
    more(copies, client, "the stream flows at the second host", *seen.values())
    client.stop(signal.SIGINT, 60)
    cluster.store.thaw()
    wait_for(lambda: over(seen[second.host]), "the guest has ended it, too", ANSWER_SECONDS)
    wanted = seen_at(*((seen[host].stop(), index) for host, index in devices.items()))
    with suppress(AssertionError):  # it is told below what is missing
        wait_for(lambda: seen_at((copies, None)) == wanted, "every copy comes", 30)
    found = seen_at((copies.stop(), None))
    assert not found - wanted, ("twice, or what was not there", found - wanted, wanted - found)
    lost = wanted - found
    assert runs(numbers[1])
    counted = sum(dropped.values())
    print(f"{protocol}, {way}: {found.total()} at the collector, {lost.total()} lost, {counted} counted as dropped")
    if protocol == "udp" or not counted:  # a frame of TCP is told by its bytes, and may be more than one packet
        assert lost.total() == counted, (lost, cluster.shown())
    if protocol == "udp" and way == "the guest sends":
        sent = sorted(number for number in map(number_of, found) if number is not None)
        assert sent == list(range(1, len(sent) + 1)), "of what the guest sent"


def stream(cluster: Cluster) -> None:
    """Have VM-2's NIC mirrored to a device of a host without VMs, and nothing else."""
    for one in cluster.a.json("show", "core")["sessions"]:
        if one["name"] != "stream":
            cluster.a.ctl("session", "delete", "core", one["name"])
    if not any("core/stream" in states(cluster, number) for number in (0, 1)):
        ends = "--source", f"type=vm,vm=VM-2,nic={VM2}", "--destination", "type=device,device=tap8,host=c"
        cluster.a.ctl("session", "add", "core", "stream", *ends)


def more(copies: Sniffer, client: Process, what: str, *others: Sniffer) -> None:
    """Until a hundred frames more have come."""
    before = len(copies.lines())
    try:
        wait_for(lambda: len(copies.lines()) > before + 100 or client.status() is not None, what, ANSWER_SECONDS)
    except AssertionError as late:
        last = "\n".join(line for one in (copies, *others) for line in [str(one.file), *one.lines()[-10:]])
        raise AssertionError(f"{late}\n{client.output()}\n{last}") from late
    assert client.status() is None, client.output()


def over(capture: Sniffer) -> bool:
    """Whether the guest has closed the connection by which iperf3 is told what to do: it sends no more then."""
    return any(re.search(rf"{ADDRESS}\.5201 > .* Flags \[[^]]*[FR]", line) for line in capture.lines())


Seen = Counter[tuple[str, ...]]

FIELDS = "ip.src", "ip.id", "udp.payload", "tcp.srcport", "tcp.flags", "tcp.ack_raw", "tcp.seq_raw", "tcp.len"


def seen_at(*captures: tuple[Sniffer, int | None]) -> Seen:
    """What of the stream captures have, each on the device of this index where it has several.

    Datagrams by their payload, and of TCP's data which bytes there are how often: a frame that is larger than the MTU,
    which a NIC would split, is copied as the several frames that it makes.
    """
    found, data = Seen(), dict[tuple[str, str], Counter[int]]()
    for capture, index in captures:
        try:
            rows = capture.fields(*FIELDS, expression="ip" if index is None else f"ip && sll.ifindex == {index}")
        except subprocess.CalledProcessError:
            continue  # a packet is only half written yet
        for source, id_, payload, port, flags, ack, sequence, length in rows:
            if payload:
                found[source, id_, payload] += 1
            elif length == "0":
                found[source, id_, port, flags, ack, sequence] += 1
            else:
                edges = data.setdefault((source, port), Counter())
                edges[int(sequence)] += 1
                edges[int(sequence) + int(length)] -= 1
    for flow, edges in data.items():
        changes = [edge for edge in sorted(edges) if edges[edge]]
        depth = 0
        for edge, following in pairwise(changes):
            depth += edges[edge]
            if depth:
                found[*flow, str(edge), str(following)] = depth
    return found


def number_of(one: tuple[str, ...]) -> int | None:
    """The number of a datagram of iperf3, which is behind its time (in src/iperf_udp.c); None for another one."""
    payload = bytes.fromhex(one[2]) if len(one) == 3 else b""
    return int.from_bytes(payload[8:12], "big") if len(payload) == 400 else None


def has_address(cluster: Cluster, number: int) -> bool:
    """Whether a host's daemon has an address in the flow network."""
    told = json.loads(ctl(cluster.members[number].daemon.socket, "--json", "network", "list"))
    return any(one["in_use"]["address"] for one in told)


def states(cluster: Cluster, number: int) -> dict[str, str]:
    """The state of each session that a host runs."""
    return {name: row["state"] for name, row in cluster.members[number].rows().items()}


def answered(text: str) -> list[int]:
    """The numbers of the pings that were answered."""
    return [int(one) for one in re.findall(r"from .* icmp_seq=(\d+) ", text)]


def copied(lines: list[str]) -> Counter[tuple[str, int]]:
    """Requests and replies by number."""
    found = (re.search(r"echo (request|reply), id \d+, seq (\d+)", line) for line in lines)
    return Counter((one[1], int(one[2])) for one in found if one)


def test_copies_follow_a_destination_that_migrates_and_what_still_comes_to_its_old_host_is_counted(
    hypervisor: Hypervisor, other: Hypervisor, cluster: Cluster
) -> None:
    c = cluster.members[2]
    source = "type=device,device=tap7,host=c"
    to = "type=vm,vm=VM-1,nic=1,isolate=true"
    cluster.a.ctl("session", "add", "core", "far", "--source", source, "--destination", to, "--direction", "egress")
    wait_for(lambda: states(cluster, 2).get("core/far") == "up", "the source is mirrored", 20)
    wait_for(lambda: states(cluster, 0).get("core/far.in") == "up", "it is listened to", 20)
    ping = c.host.spawn("ping", "-i", "0.02", "10.7.0.2")
    wait_for(lambda: counted(cluster, 0)["mirrored"] > 50, "copies arrive at the first host")
    hypervisor.migrate("VM-1", other, SLOWLY)
    wait_for(lambda: counted(cluster, 1)["mirrored"] > 50, "copies arrive at the other host", 30)
    ping.stop(signal.SIGINT)
    sent = c.rows()["core/far"]["counters"]
    both = wait_for(lambda: all_come(cluster, sent["mirrored_frames"]), "what was sent is counted at either host")
    print("sent", sent["mirrored_frames"], "came to the first host, and to the second:", both)
    assert sent["captured_frames"] == sent["mirrored_frames"]
    assert both[0]["dropped"] + both[0]["mirrored"] == both[0]["captured"]
    assert both[1]["mirrored"] == both[1]["captured"]
    assert 0 < both[0]["dropped"] < 100, "2 s at the most"


def counted(cluster: Cluster, number: int) -> dict[str, int]:
    """What came to a host's half of the session."""
    row = cluster.members[number].rows().get("core/far.in")
    if row is None:
        return {"captured": 0, "mirrored": 0, "dropped": 0}
    counters = row["counters"]
    dropped = sum(counters["dropped_frames"].values())
    return {"captured": counters["captured_frames"], "mirrored": counters["mirrored_frames"], "dropped": dropped}


def all_come(cluster: Cluster, sent: int) -> list[dict[str, int]] | None:
    both = [counted(cluster, number) for number in (0, 1)]
    return both if sum(one["captured"] for one in both) == sent else None
