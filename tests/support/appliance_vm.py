"""The machine of tests/vm/appliance.py, with the package in it: what it is asked, and what passes its wires.

[outside] wire0 10.0.0.2 ---- eth0 virtio  [machine]      the source of README's session
          wire1 192.0.2.10 -- eth1 e1000e                 the way to the collector
          wire2 10.2.0.2 ---- eth2 e1000e
          wire3 10.3.0.2 ---- eth3 virtio
"""

from __future__ import annotations

import json
import socket
from itertools import count
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from tests.support.metrics import Metrics
from tests.support.qemu import Machine
from tests.support.sniffer import Recording, Sniffer
from tests.support.topology import Host
from tests.support.wait import wait_for
from tests.support.wire import decapsulated

NICS = "virtio-net-pci", "e1000e", "e1000e", "virtio-net-pci"
ADDRESSES = "10.0.0.1", "192.0.2.1", "10.2.0.1", "10.3.0.1"
OUTSIDE = "10.0.0.2", "192.0.2.10", "10.2.0.2", "10.3.0.2"
UPLINK_MTU = 2000
SET_UP = """
sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
name() { basename $(dirname $(grep -l $1 /sys/class/net/*/address)); }
for n in 0 1 2 3; do ip link set $(name 52:54:00:00:00:0$((n + 1))) name nic$n; done
for n in 0 1 2 3; do ip link set nic$n name eth$n; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 shared /mnt
"""
SCRAPE = "exec 3<>/dev/tcp/127.0.0.1/9817; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
BULK = bytes(range(256)) * 800  # what a stream brings in
SENT = 100_000  # bytes that it takes out


class Counts(NamedTuple):
    captured: float
    mirrored: float
    skipped: float
    dropped: float

    @property
    def whole(self) -> bool:
        """Whether each frame was mirrored."""
        return self.captured == self.mirrored

    def __sub__(self, before: Counts) -> Counts:
        return Counts(*(now - then for now, then in zip(self, before, strict=True)))


class Lab:
    """Made: the NICs have their addresses, and both ends know each other."""

    def __init__(self, machine: Machine, outside: Host, directory: Path) -> None:
        self.machine, self.outside, self._directory = machine, outside, directory
        self._numbers = count()
        self._ports = count(5001)
        outside.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        for number, address in enumerate(OUTSIDE):
            outside.ip(f"address add {address}/24 dev wire{number}")
            outside.ip(f"link set wire{number} mtu {UPLINK_MTU if number == 1 else 1500} up")
        machine.sh(SET_UP)
        for number in range(len(NICS)):
            self.address(number)

    def address(self, number: int) -> None:
        """Give a NIC what it lost with its driver, and wait for its carrier."""
        mtu = UPLINK_MTU if number == 1 else 1500
        self.machine.sh(
            f"until [ -e /sys/class/net/eth{number} ]; do sleep 0.2; done; ip link set eth{number} mtu {mtu};"
            f"ip address replace {ADDRESSES[number]}/24 dev eth{number}; ip link set eth{number} up"
        )
        self.carrier(number, up=True)

    def carrier(self, number: int, *, up: bool) -> None:
        """Wait until the machine knows of a NIC's carrier, or of its end."""
        self.machine.sh(f"until [ $(cat /sys/class/net/eth{number}/carrier) = {up:d} ]; do sleep 0.2; done")

    def apply(self, text: str) -> None:
        """Have sessions beside README's run."""
        self.machine.write("/etc/mirrord/conf.d/lab.toml", text)
        self.machine.sh("systemctl reload mirrord")
        self.up()

    # --- what is counted ---

    def metrics(self) -> Metrics:
        return Metrics.parse(self.machine.sh(SCRAPE).partition("\r\n\r\n")[2])

    def up(self) -> None:
        """Wait until every session runs."""

        def all_up() -> bool:
            found = self.metrics().select("mirrord_session_up")
            return bool(found) and all(found.values())

        wait_for(all_up, "every session up", 60)

    def counts(self, session: str) -> Counts:
        """Of a session, once each frame has come to its end."""

        def at_rest() -> Counts | None:
            metrics = self.metrics()
            found = Counts(*(metrics.total(f"mirrord_{one}_frames_total", session=session) for one in Counts._fields))
            return found if found.captured == sum(found[1:]) else None

        return wait_for(at_rest, f"the frames of {session} accounted for", 60)

    def settled(self, session: str, before: Counts, captured: int) -> Counts:
        """What was counted since, once so many frames were captured."""

        def there() -> Counts | None:
            found = self.counts(session) - before
            return found if found.captured >= captured else None

        return wait_for(there, f"{captured} frames captured", 60)

    def dropped(self, session: str) -> dict[str, float]:
        """By reason."""
        found = self.metrics().select("mirrord_dropped_frames_total", session=session)
        return {dict(labels)["reason"]: value for (_, labels), value in found.items() if value}

    def queue(self, key: str) -> int:
        """Of the queueing of eth1, as `tc -s` tells of its root: what it dropped, or still has."""
        told = json.loads(self.machine.sh("tc -s -j qdisc show dev eth1"))
        return int(next(one for one in told if one.get("root"))[key])

    def received(self, netns: str) -> dict[str, int]:
        """Packets that devices in a network namespace of the machine have received."""
        told = json.loads(self.machine.sh(f"ip -n {netns} -j -s link show"))
        return {one["ifname"]: int(one["stats64"]["rx"]["packets"]) for one in told}

    # --- what passes ---

    def sniff(self, wire: int, vni: int | None = None) -> Sniffer:
        """What passes a wire, or the copies of this VNI."""
        expression = "" if vni is None else f"udp port 4789 and udp[12:4] = {vni << 8}"
        file = self._directory / f"{next(self._numbers)}.pcap"
        return Sniffer(self.outside, f"wire{wire}", expression, file)

    def ping(self, number: int, times: int = 5) -> int:
        """Echo requests to a NIC; how many were answered."""
        said = self.outside.run("ping", "-c", str(times), "-i", "0.05", "-W", "2", ADDRESSES[number], check=False)
        return int(said.partition(" received")[0].rpartition(" ")[2])

    def stream(self, number: int) -> None:
        """Over a NIC, TCP both ways: SENT bytes out, BULK in, all of which arrives."""
        port, got = next(self._ports), []
        with self.outside.open_socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
            listening.bind((OUTSIDE[number], port))
            listening.listen()
            listening.settimeout(60)

            def serve() -> None:
                end, _ = listening.accept()
                end.settimeout(60)
                with end, end.makefile("rb") as file:
                    got.append(len(file.read(SENT)))
                    end.sendall(BULK)

            thread = Thread(target=serve)
            thread.start()
            said = self.machine.sh(
                f"exec 3<>/dev/tcp/{OUTSIDE[number]}/{port}; head -c {SENT} /dev/zero >&3; wc -c <&3"
            )
            thread.join()
        assert (int(said), got) == (len(BULK), [SENT])


def inside(copies: Sniffer) -> Recording:
    """The frames of copies in VXLAN."""
    return decapsulated(copies.stop())
