"""A cluster: hosts of a topology, each with its daemon and agent, and the etcd that they share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.agent import Agent
from tests.support.ctl import ctl
from tests.support.daemon import Daemon
from tests.support.etcd import Store
from tests.support.topology import Host


@dataclass(frozen=True)
class Member:
    """A host of the cluster."""

    host: Host
    daemon: Daemon
    agent: Agent

    def ctl(self, *words: str, status: int = 0) -> str:
        return ctl(self.agent.socket, "--cluster", *words, status=status)

    def json(self, *words: str) -> Any:
        return json.loads(self.ctl("--json", *words))

    def rows(self) -> dict[str, Any]:
        """What the daemon runs, by name, as its status has it."""
        rows = json.loads(ctl(self.daemon.socket, "--json", "status"))["sessions"]
        return {f"{row['mirror']}/{row['session']}": row for row in rows}

    def sessions(self) -> dict[str, tuple[str, str, str]]:
        """What the daemon runs: source, state and reason by name."""
        return {name: (row["source"], row["state"], row["reason"]) for name, row in self.rows().items()}

    def stop(self) -> None:
        assert self.agent.stop() == 0, self.agent.output()
        assert self.daemon.stop()[0] == 0


def member(host: Host, directory: Path, store: Store, *, begin: bool = False, under: Sequence[str] = ()) -> Member:
    """A host with `em02` for the flow network flow0; `begin`: the cluster begins at it. `under` are words before the
    commands of daemon and agent.
    """
    daemon = Daemon(host, directory, "", up=False, under=under, dataplane="native")
    agent = Agent(host, directory, daemon.socket, under=under, endpoints=[store.url], devices={"flow0": "em02"})
    if begin:
        assert "was made" in agent.command("init")
    agent.start()
    return Member(host, daemon, agent)


@dataclass(frozen=True)
class Cluster:
    store: Store
    members: tuple[Member, ...]

    @property
    def a(self) -> Member:
        return self.members[0]

    @property
    def b(self) -> Member:
        return self.members[1]

    def settle(self) -> None:
        """Until each host runs what the store says."""
        self.a.ctl("wait", "--timeout", "20")

    def keys(self, below: str) -> dict[str, Any]:
        lines = self.store.ctl("get", "--prefix", f"/mirrord/{below}").splitlines()
        return {key: json.loads(value) for key, value in zip(lines[::2], lines[1::2], strict=True)}

    def addresses(self) -> dict[str, str]:
        """The addresses of the flow network, by host; each host has one, and each address one host."""
        taken = self.keys("alloc/addr/flow0/")
        hosts = [one["host"] for one in taken.values()]
        assert len(set(hosts)) == len(hosts), taken
        return {one["host"]: key.rpartition("/")[2] for key, one in taken.items()}

    def shown(self) -> str:
        """What runs, and what the hosts have printed."""
        return "\n".join(f"{one.sessions()}\n{one.agent.output()}\n{one.daemon.output()}" for one in self.members)
