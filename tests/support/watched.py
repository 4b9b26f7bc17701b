"""A guest's pings, and what of them reaches who watches it."""

from __future__ import annotations

from tests.support.sniffer import Sniffer
from tests.support.topology import Host


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
