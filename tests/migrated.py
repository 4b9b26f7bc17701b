"""iperf3 in VMs that migrate live in a cluster, by libvirt and QEMU: `make migrated`, as root, a minute and a half.

Not among the other tests for its time; tests/scenarios/test_guests.py has pings, and destinations that migrate.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import pytest

from tests.conftest import MakeSniffer
from tests.support.cluster import Cluster
from tests.support.guests import Hypervisor
from tests.support.migration import ADDRESS, VM2, one_host, only, states
from tests.support.process import Process
from tests.support.sniffer import Sniffer
from tests.support.wait import wait_for

pytest_plugins = ["tests.support.migrating"]  # fixtures
pytestmark = pytest.mark.timeout(600)

ANSWER_SECONDS = 180
"""How long a VM may take: under software emulation, on a machine with other work, it stands still for a while."""
SLOWLY = 24
"""MB/s: a VM of people's use takes its time, too."""


@pytest.fixture(scope="module")
def hypervisor() -> Iterator[Hypervisor]:
    with one_host("iperf3") as made:
        yield made


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
@pytest.mark.parametrize("way", ["the guest sends", "the guest receives"])
@pytest.mark.parametrize("away", ["", "without the store"])
def test_each_frame_of_a_stream_at_the_nic_of_a_vm_that_migrates_is_copied_once(
    hypervisor: Hypervisor, other: Hypervisor, cluster: Cluster, sniff: MakeSniffer, protocol: str, way: str, away: str
) -> None:
    """iperf3 in the guest. tcpdump sees all devices of both hosts, and so the NIC's before it is there."""
    numbers = (0, 1) if hypervisor.device("VM-2", VM2) else (1, 0)
    first, second = ((hypervisor, other)[number] for number in numbers)
    only(cluster, "stream", f"type=vm,vm=VM-2,nic={VM2}", "type=device,device=tap8,host=far")
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
    print(f"{found.total()} at the collector, {lost.total()} lost, {counted} counted as dropped")
    if protocol == "udp" or not counted:  # a frame of TCP is told by its bytes, and may be more than one packet
        assert lost.total() == counted, (lost, cluster.shown())
    if protocol == "udp" and way == "the guest sends":
        sent = sorted(number for number in map(number_of, found) if number is not None)
        assert sent == list(range(1, len(sent) + 1)), "of what the guest sent"


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
