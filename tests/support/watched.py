"""A guest's pings, and what of them reaches who watches it; and what the audit log tells of every operation.

VM-2 eth0 ---- tap-vm2 [host] tap-vm1 ---- eth1 VM-1
"""

from __future__ import annotations

from tests.support.sniffer import Sniffer
from tests.support.topology import Host, Topology

EVERY_OPERATION = [  # operation, kind, object, mirror: document 004's, as the two tests of it do them
    ("create", "mirror", "vm-2", "vm-2"),
    ("create", "session", "nic", "vm-2"),
    ("enable", "mirror", "vm-2", "vm-2"),
    ("change", "mirror", "vm-2", "vm-2"),
    ("rename", "mirror", "vm-2", "vm-2"),
    ("disable", "mirror", "core", "core"),
    ("enable", "mirror", "core", "core"),
    ("delete", "session", "nic", "core"),
    ("create", "session", "nic", "core"),
    ("delete", "mirror", "core", "core"),
    ("create", "mirror", "core", "core"),
]


def machines(net: Topology) -> tuple[Host, Host, Host]:
    """The host, VM-1 and VM-2, which pings the host."""
    host, vm1, vm2 = net.host("host"), net.host("vm1"), net.host("vm2")
    net.link(vm2, "eth0", host, "tap-vm2", ("10.1.225.37/24", "10.1.225.124/24"))
    net.link(vm1, "eth1", host, "tap-vm1")
    return host, vm1, vm2


class Watched:
    """VM-2's pings, by number, and what of them reaches VM-1."""

    def __init__(self, vm2: Host, received: Sniffer) -> None:
        self._vm2, self._received = vm2, received
        self._pings, self._lines = 0, 0

    def ping(self, *, mirrored: bool) -> None:
        """A request and its reply, both seen at VM-1 or neither: the next that are seen have the next number."""
        self._pings += 1
        self._vm2.run("ping", "-c", "1", "-e", str(self._pings), "10.1.225.124")
        if mirrored:
            lines = self._received.wait_lines(self._lines + 2)
            expected = [f"ICMP echo {kind}, id {self._pings}," for kind in ("request", "reply")]
            assert [part in line for part, line in zip(expected, lines[self._lines :], strict=True)] == [True, True]
            self._lines += 2
