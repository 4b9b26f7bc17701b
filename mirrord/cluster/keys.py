"""Where each record is in the store. All of it is below one prefix."""

from __future__ import annotations

from typing import NamedTuple

SECTIONS = ("flow_networks", "filters", "mirrors", "sessions")


class Keys(NamedTuple):
    """The keys below a prefix such as "/mirrord"."""

    prefix: str

    @property
    def config(self) -> str:
        """All that people want of the cluster."""
        return f"{self.prefix}/config/"

    @property
    def cluster(self) -> str:
        """The cluster's id, written once."""
        return f"{self.config}cluster"

    @property
    def guard(self) -> str:
        """Every change of the configuration is on condition that nobody has written this since, and writes it."""
        return f"{self.config}guard"

    def object(self, section: str, name: str, mirror: str = "") -> str:
        """A flow network, filter, mirror, or session of a mirror."""
        return f"{self.config}{section}/{f'{mirror}/' if mirror else ''}{name}"

    def vnis(self, network: str) -> str:
        """The VNIs of a flow network that are taken, or were a moment ago."""
        return f"{self.prefix}/alloc/vni/{network}/"

    def addresses(self, network: str) -> str:
        """The addresses of a flow network that hosts have."""
        return f"{self.prefix}/alloc/addr/{network}/"

    @property
    def allocated(self) -> str:
        return f"{self.prefix}/alloc/"

    @property
    def ends(self) -> str:
        """Where destinations are: ends/HOST/MIRROR/SESSION."""
        return f"{self.prefix}/ends/"

    def end(self, host: str, mirror: str, session: str) -> str:
        return f"{self.ends}{host}/{mirror}/{session}"

    @property
    def hosts(self) -> str:
        """Which agents live and see the store."""
        return f"{self.prefix}/hosts/"

    def host(self, host: str) -> str:
        return f"{self.hosts}{host}"

    @property
    def states(self) -> str:
        """How hosts do."""
        return f"{self.prefix}/status/"

    def status(self, host: str) -> str:
        return f"{self.states}{host}"

    @property
    def audit(self) -> str:
        """Who did what, by time."""
        return f"{self.prefix}/audit/"
