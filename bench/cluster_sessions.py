"""What 10,000 sessions ask of one agent: to read them all, to follow a change of one, to work out its host's part.

The agent is a real one with its daemon and etcd; what is measured is seen from outside: the processor time that it
takes, and for how long at most it left a client without an answer. That is the longest turn of its loop, and what the
machine needs for a question.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from bench.comparison.operation import processor_seconds, resident_bytes
from bench.tables import Table
from mirrord.cluster import records
from mirrord.cluster.derive import Here, derive
from mirrord.cluster.ends import Ends
from mirrord.cluster.etcd import Etcd, Found, put
from mirrord.cluster.keys import Keys
from mirrord.cluster.reader import Reader
from mirrord.cluster.records import End
from mirrord.control.guests.inventory import Answer, Guest, GuestNic, Place
from tests.support.agent import Agent
from tests.support.api import Api
from tests.support.daemon import Daemon
from tests.support.etcd import Store
from tests.support.topology import Topology
from tests.support.wait import wait_for

KEYS = Keys("/mirrord")
SESSIONS, OTHERS = 10_000, 1000
EACH = 100  # keys of a transaction
CHANGES = 40
AT_ONCE = 2000  # changes while the agent stands still
NETWORK = {"addresses": "10.0.0.1-10.0.255.254/16", "vnis": "1-65000"}


def derivation() -> Table:
    """A host with 20 VMs, of a cluster of 10,000 sessions between 20,000 of them."""
    end = {"type": "vm", "nic": 1}
    objects: dict[str, dict[str, Any]] = {KEYS.object("flow_networks", "flow0"): NETWORK}
    for mirror in range(10):
        objects[KEYS.object("mirrors", f"m{mirror}")] = {"flow_network": "flow0"}
    for n in range(SESSIONS):
        session = {"source": {"type": "vm", "vm": f"a{n}"}, "destination": {**end, "vm": f"b{n}"}, "vni": n + 1}
        objects[KEYS.object("sessions", f"s{n}", f"m{n % 10}")] = session
    config = {key: Found(records.record(one), n + 1, n + 1, 0) for n, (key, one) in enumerate(objects.items())}
    ends = Ends.of({(f"m{n % 10}", f"s{n}"): {"other": End("other", "10.0.1.1", n)} for n in range(SESSIONS)})
    names = [f"{side}{n}" for side in "ab" for n in range(0, SESSIONS, SESSIONS // 10)]
    guests = tuple(Guest(name, name, runs=True, nics=(GuestNic("", "", "vnet0"),)) for name in names)
    here = Here("a", {"flow0": "em02"}, {"flow0": "10.0.0.1"}, {Place("vm", "qemu:///system"): Answer(guests)})
    reader, table = Reader(KEYS), Table(f"{SESSIONS} sessions: milliseconds")
    news = config
    for turn in range(11):
        begun = time.perf_counter()
        for key, found in news.items():
            reader.put(key, found)
        snapshot = reader.snapshot()
        read = time.perf_counter()
        part = derive(snapshot, ends, here)
        done = time.perf_counter()
        assert len(part.halves) == len(names)
        key = KEYS.object("sessions", "s0", "m0")
        news = {key: config[key]._replace(modified=SESSIONS + 100 + turn)}
        table.add(
            "read the first time" if not turn else "read after a change of one", milliseconds=1000 * (read - begun)
        )
        if turn:
            table.add("a host's derivation", milliseconds=1000 * (done - read))
    return table


def _keys(host: str) -> Iterator[tuple[str, str]]:
    """All records: ten sessions of each host's devices to another one's."""
    for n in range(10):
        network = {"addresses": f"10.{n}.0.1-10.{n}.255.254/16", "vnis": "1-65000"}
        yield KEYS.object("flow_networks", f"flow{n}"), records.record(network)
        yield KEYS.object("mirrors", f"m{n}"), records.record({"flow_network": f"flow{n}", "enabled": True})
    for n in range(SESSIONS):
        yield _session(n, host)
        end = records.record({"address": "10.0.1.1", "vni": n + 1})
        yield KEYS.end(f"h{(n + 1) % OTHERS}", f"m{n % 10}", f"s{n}"), end


def _session(n: int, host: str, **more: Any) -> tuple[str, str]:
    there = host if n % OTHERS == 0 else f"h{n % OTHERS}"
    ends = {
        "source": {"type": "device", "device": f"tap{n // OTHERS}", "host": there},
        "destination": {"type": "device", "device": "tap99", "host": f"h{(n + 1) % OTHERS}"},
    }
    return KEYS.object("sessions", f"s{n}", f"m{n % 10}"), records.record({**ends, "vni": n + 1, **more})


class Probe:
    """Asks an agent for what it has not, again and again; the longest time until it said so, in milliseconds."""

    def __init__(self, agent: Agent) -> None:
        self.longest = 0.0
        self._path, self._stop = str(agent.socket), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            with socket.socket(socket.AF_UNIX) as one:
                begun = time.perf_counter()
                try:
                    one.connect(self._path)
                    one.sendall(b"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    while one.recv(4096):
                        pass
                except OSError:
                    continue  # it is not there yet
                self.longest = max(self.longest, 1000 * (time.perf_counter() - begun))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def loaded(store: Store, agent: Agent) -> tuple[Table, float]:
    """The agent is started here. The table, and its megabytes at the end."""
    host = agent.host.label
    keys = list(_keys(host))

    async def fill(etcd: Etcd) -> None:
        for first in range(0, len(keys), EACH):
            await etcd.change([], [put(*one) for one in keys[first : first + EACH]])

    store.ask(fill)
    table = Table(f"An agent of a cluster with {SESSIONS} sessions")

    @contextmanager
    def measured(word: str, over: int = 1) -> Iterator[None]:
        begun, before = time.monotonic(), processor_seconds(agent.pid)
        with Probe(agent) as probe:
            yield
            took = 1000 * (time.monotonic() - begun) / over
            time.sleep(1)  # it goes on a while, writing its file
            used = 1000 * (processor_seconds(agent.pid) - before) / over
        table.add(word, milliseconds=took, longest_wait_ms=probe.longest, processor_ms=used)

    def until(revision: int) -> None:
        wait_for(lambda: agent.metrics().total("mirrord_cluster_applied_revision") >= revision, "it is followed", 60)

    def change(*numbers: int) -> Callable[[Etcd], Any]:
        async def changed(etcd: Etcd) -> int:
            revision = 0
            for first in range(0, len(numbers), EACH):
                puts = [put(*_session(n, host, snaplen=64 + n % 100)) for n in numbers[first : first + EACH]]
                revision = (await etcd.change([], [*puts, put(KEYS.guard, records.record({"by": "x"}))])).revision
            return revision

        return changed

    agent.start()
    wait_for(lambda: "started" in agent.output(), "it listens")
    with measured("all is read, at the start"):
        until(1)
    with measured("nothing happens"):
        time.sleep(2)
    for word, numbers in (
        ("a change of one of another host", range(1, CHANGES + 1)),
        ("a change of one of this host", range(0, SESSIONS, SESSIONS // (CHANGES // 4))),
    ):
        with measured(word, len(numbers)):
            for number in numbers:
                revision = store.ask(change(number))
                time.sleep(0.1)
            until(revision)
    os.kill(agent.pid, signal.SIGSTOP)
    revision = store.ask(change(*range(AT_ONCE)))
    with measured(f"{AT_ONCE} changes that were made while it stood still"):
        os.kill(agent.pid, signal.SIGCONT)
        until(revision)
    api = Api(agent.socket)
    with measured("a session is added at this agent", 4):
        for n in range(4):
            session = {"name": f"new{n}", "source": {"type": "device", "device": "x", "host": "h1"}}
            answer = api(
                "POST",
                f"mirrors/m{n}/sessions",
                {**session, "destination": {"type": "device", "device": "y", "host": "h2"}},
            )
            assert answer.status == 201, answer
    with measured("it is asked for a mirror of a thousand sessions", 2):
        for n in range(2):
            assert len(api("GET", f"mirrors/m{n}").body["sessions"]) >= SESSIONS // 10
    return table, resident_bytes(agent.pid) / 1e6


class Site(NamedTuple):
    """What runs on a host; the cluster is begun, the agent is not started."""

    store: Store
    daemon: Daemon
    agent: Agent


@contextmanager
def site() -> Iterator[Site]:
    """A host with a device for the flow network flow0."""
    with Topology() as net, tempfile.TemporaryDirectory() as folder:
        host, directory = net.host("host"), Path(folder)
        net.link(host, "em02", net.host("wire"), "eth0")
        store = Store(host, directory / "etcd")
        store.start()
        daemon = Daemon(host, directory, "", up=False)
        agent = Agent(host, directory, daemon.socket, endpoints=[store.url], devices={"flow0": "em02"})
        agent.command("init")
        yield Site(store, daemon, agent)
        agent.stop()
        daemon.stop()


def measure() -> tuple[Table, Table, float]:
    """The derivation; a real agent's figures, and its megabytes at the end."""
    with site() as one:
        table, megabytes = loaded(one.store, one.agent)
    return derivation(), table, megabytes


if __name__ == "__main__":
    for each in measure():
        print(each.markdown() if isinstance(each, Table) else f"MB: {each}")
