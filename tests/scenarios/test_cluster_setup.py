"""docs/cluster.md's recipe, as it stands there: three nodes of etcd with certificates, users and roles, two hosts.

Then what it protects from, and what it is for: one node is lost.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mirrord.cluster import records
from mirrord.cluster.errors import StoreError
from mirrord.cluster.etcd import Access, Etcd
from tests.support.agent import Agent
from tests.support.ctl import ctl, invoke
from tests.support.daemon import ROOT
from tests.support.process import Process
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

NODES = {f"etcd{number}": f"192.0.2.{number}" for number in (1, 2, 3)}
DOCUMENT = (ROOT / "docs/cluster.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
LATER = re.findall(r"^    (export ETCDCTL_USER=.*)\n    (mirrord-agent rights .*)$", DOCUMENT, re.MULTILINE)


class Made:
    """The nodes, and what the recipe has left in `directory`."""

    def __init__(self, net: Topology, directory: Path) -> None:
        certificates, self._node, self._rights = BLOCKS
        self.net, self.directory = net, directory
        self.hosts = {name: net.host(name) for name in (*NODES, "a", "b")}
        addresses = {**NODES, "a": "192.0.2.11", "b": "192.0.2.12"}
        net.lan({host: f"{addresses[name]}/24" for name, host in self.hosts.items()})
        subprocess.run(["sh", "-e", "-c", certificates], cwd=directory, check=True, capture_output=True)
        self.nodes = {name: self.start(name) for name in NODES}

    def start(self, name: str) -> Process:
        variables = f"NAME={name} ADDRESS={NODES[name]} DATA={self.directory / name}.data"
        fast = "--heartbeat-interval 50 --election-timeout 500 --logger zap"
        return self.hosts[name].spawn(
            "sh", "-c", f"{variables}; exec {self._node.strip()} {fast}", directory=self.directory
        )

    def agent(self, name: str) -> Agent:
        directory = self.directory / f"agent-{name}"
        directory.mkdir()
        agent = Agent(
            self.hosts[name], directory, directory / "none.sock", **self.settings(f"host-{name}"),
            endpoints=[f"https://{address}:2379" for address in NODES.values()],
        )  # fmt: skip
        agent.file.write_text(agent.file.read_text().replace(f'host = "{name}"', f'host = "host-{name}"'))
        return agent

    def settings(self, user: str) -> dict[str, str]:
        files = {
            "ca": "ca.pem",
            "certificate": f"{user}.pem",
            "key": f"{user}-key.pem",
            "password_file": f"{user}.password",
        }
        return {key: str(self.directory / file) for key, file in files.items()} | {"username": user}

    def rights(self, agent: Agent) -> None:
        """The commands of the recipe, with its own mirrord-agent."""
        program = self.directory / "mirrord-agent"
        command = f"PYTHONPATH={ROOT} exec {sys.executable} -m mirrord.cluster.main -c {agent.file}"
        program.write_text(f'#!/bin/sh\n{command} "$@"\n')
        program.chmod(0o755)
        self._as_written(self._rights)

    def more_rights(self, *commands: str) -> None:
        """Once etcd asks who it is."""
        self._as_written("\n".join([*self._rights.splitlines()[:2], *commands]))

    def _as_written(self, script: str) -> None:
        self.hosts["a"].run("sh", "-e", "-c", f"cd {self.directory}; PATH={self.directory}:$PATH; {script}")

    def healthy(self) -> bool:
        words = (
            "env", "ETCDCTL_API=3", "etcdctl", "--endpoints", "https://192.0.2.1:2379", "--cacert", "ca.pem",
            "--cert", "admin.pem", "--key", "admin-key.pem", "endpoint", "health",
        )  # fmt: skip
        shell = " ".join(words)
        return "is healthy" in self.hosts["a"].run("sh", "-c", f"cd {self.directory}; {shell}", check=False)

    def access(self, user: str) -> Access:
        return Access(endpoints=("https://192.0.2.1:2379",), **self.settings(user))

    def ask(self, user: str, key: str) -> str:
        """What comes of a write by a host's user: "" or the refusal."""
        return asked(self.hosts["a"], self.access(user), key)


def asked(host: Host, access: Access, key: str) -> str:
    async def write() -> str:
        etcd = Etcd(access)
        try:
            await etcd.put(key, records.record({}))
        except StoreError as error:
            return str(error)
        finally:
            await etcd.close()
        return ""

    return host.call(lambda: asyncio.run(write()))


@pytest.fixture
def made(net: Topology, tmp_path: Path) -> Made:
    assert len(BLOCKS) == 3
    one = Made(net, tmp_path)
    wait_for(one.healthy, "the store answers", 30)
    return one


def test_three_nodes_with_certificates_and_roles_by_the_documents_recipe(made: Made) -> None:
    a, b = made.agent("a"), made.agent("b")
    made.rights(a)
    assert "was made" in a.command("init"), a.command("init")
    for agent in (a, b):
        agent.start()
        wait_for(lambda: alive(agent) == {"host-a", "host-b"} or agent is a, "both live", 20)  # noqa: B023 (called here)
    ctl(a.socket, "--cluster", "create", "core")
    told = ctl(b.socket, "--cluster", "create", "other", status=1)
    assert "this host's user may not do that" in told

    for key in ("hosts/host-a", "ends/host-a/core/nic", "status/host-a", "config/mirrors/x", "audit/1"):
        assert "may not do that" in made.ask("host-b", f"/mirrord/{key}"), key
    for key in ("ends/host-b/core/nic", "alloc/addr/flow0/192.0.2.99"):
        assert not made.ask("host-b", f"/mirrord/{key}"), key

    (as_root, later), *_ = LATER
    before = (made.directory / "host-b.password").read_text()
    made.more_rights(as_root, later, later.replace("host-c", "host-b"))
    assert (made.directory / "host-b.password").read_text() == before, "what is there stays"
    assert not made.ask("host-b", "/mirrord/ends/host-b/core/nic")
    as_c = made.access("host-b")._replace(username="host-c", password_file=str(made.directory / "host-c.password"))
    assert not asked(made.hosts["a"], as_c, "/mirrord/ends/host-c/core/nic")
    assert (made.directory / "root.password").stat().st_mode & 0o077 == 0
    assert "is valid" in b.command("--check")
    assert "expected a name" in b.command("rights", "a/b")
    assert "the agent runs" in b.command("join", "--replace")

    stranger = made.directory / "stranger"
    stranger.mkdir()
    subprocess.run(["sh", "-e", "-c", BLOCKS[0]], cwd=stranger, check=True, capture_output=True)
    of_another = made.access("host-b")._replace(
        certificate=str(stranger / "host-b.pem"), key=str(stranger / "host-b-key.pem")
    )
    refused = made.hosts["a"], of_another, "/mirrord/ends/host-b/core/nic"
    # In TLS 1.3 a client asks before the server looks at its certificate: a reset may overtake the alert that tells.
    wait_for(lambda: "certificate" in asked(*refused), "the refusal, by its reason")
    distrusting = made.access("host-b")._replace(ca=str(stranger / "ca.pem"))
    assert "certificate" in asked(made.hosts["a"], distrusting, "/mirrord/ends/host-b/core/nic")
    wrong = stranger / "password"
    wrong.write_text("wrong")
    assert "password" in asked(
        made.hosts["a"], made.access("host-b")._replace(password_file=str(wrong)), "/mirrord/ends/host-b/x/y"
    )

    made.nodes["etcd1"].stop(9)
    wait_for(lambda: changed(a), "a change with two nodes", 30)
    wait_for(lambda: alive(b) == {"host-a", "host-b"}, "both follow another node", 60)
    for agent in (a, b):
        assert agent.stop() == 0, agent.output()


def alive(agent: Agent) -> set[str]:
    answer = json.loads(ctl(agent.socket, "--cluster", "--json", "status"))
    return {one["host"] for one in answer["hosts"] if one["alive"]} if answer["cluster"]["connected"] else set()


def changed(agent: Agent) -> bool:
    return invoke(agent.socket, "--cluster", "set", "core", "--description", "two nodes").exit_code == 0
