"""What a cluster of 1,000 hosts asks of its etcd and of each agent.

`python -m bench.cluster [--agents N] [--quick]`, as root: three minutes. It writes results/cluster.md. The agents are
played by one process, each with connections of its own, through the agent's own client of etcd: a watch from the start
on, a lease of 30 s kept each 10, a status of 420 bytes and a look at what is under the lease each 30. One more is real,
with its daemon. All is on one machine, so the times to reach them have what that process takes for a thousand in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from bench import cluster_sessions
from bench.comparison.operation import processor_seconds, resident_bytes
from bench.machine import as_a_service, machine
from bench.tables import Table, number
from mirrord.cluster import records
from mirrord.cluster.agent import STATUS_SECONDS
from mirrord.cluster.errors import StoreError
from mirrord.cluster.etcd import Access, Etcd, put
from mirrord.cluster.keys import Keys
from mirrord.cluster.link import AGAIN_SECONDS, KEEP_SECONDS, LEASE_SECONDS, SEEN_EACH
from tests.support.agent import Agent
from tests.support.ctl import ctl
from tests.support.daemon import Daemon
from tests.support.etcd import Store

RESULTS = Path(__file__).parent / "results" / "cluster.md"
KEYS = Keys("/mirrord")
CHANGES = 20
PAUSE_SECONDS = 0.5  # between changes
DOWN_SECONDS = 3.0
STATUS = records.record({"revision": 1, "problem": "", "unread": [], "left_out": 0, "sessions": ["x" * 340]})


class Played:
    """An agent as etcd sees one."""

    def __init__(self, access: Access, number: int) -> None:
        self.etcd, self.host = Etcd(access), f"h{number}"
        self.seen: dict[int, float] = {}  # when each revision was heard of
        self.watching = False

    async def run(self) -> None:
        wait, longest = AGAIN_SECONDS
        at = 0
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._own())
                    at = at or (await self.etcd.range(KEYS.config)).revision
                    async for events in self.etcd.watch({KEYS.config: at + 1, KEYS.ends: at + 1}):
                        self.watching = True
                        for event in events:
                            self.seen.setdefault(event.revision, time.monotonic())
                            at = max(at, event.revision)
            except* StoreError:
                pass
            wait = AGAIN_SECONDS[0] if self.watching else wait
            self.watching = False
            await asyncio.sleep(wait * random.uniform(0.5, 1))
            wait = min(2 * wait, longest)

    async def _own(self) -> None:
        lease = await self.etcd.grant(LEASE_SECONDS)
        await self.etcd.put(KEYS.host(self.host), records.record({"mirrord": "0"}), lease)
        await asyncio.sleep(random.uniform(0, KEEP_SECONDS))
        for turn in range(1 << 30):
            if turn % int(STATUS_SECONDS // KEEP_SECONDS) == 0:
                await self.etcd.put(KEYS.status(self.host), STATUS, lease)
            await self.etcd.keep(lease)
            if turn % SEEN_EACH == 0:
                await self.etcd.get(KEYS.host(self.host), of_node=True)
            await asyncio.sleep(KEEP_SECONDS)


async def until(condition: Callable[[], bool], seconds: float) -> float:
    """How long it took."""
    begun = time.monotonic()
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (of a thousand tasks, none of which knows of the others)
            await asyncio.sleep(0.005)
    return time.monotonic() - begun


async def change(etcd: Etcd, number: int) -> int:
    """What an operator does: a session, and the guard of all."""
    session = {"source": {"type": "vm", "vm": f"vm{number}"}, "destination": {"type": "vm", "vm": "sink", "nic": 1}}
    operations = [put(KEYS.object("sessions", f"s{number}", "core"), records.record({**session, "vni": 5000 + number}))]
    return (await etcd.change([], [*operations, put(KEYS.guard, records.record({"by": "bench"}))])).revision


async def applied(agent: Agent, revision: int) -> None:
    """Until a real agent's daemon runs what this revision has."""
    while True:
        page = await asyncio.to_thread(agent.metrics)
        if page.total("mirrord_cluster_applied_revision") >= revision:
            return


async def play(store: Store, agent: Agent, daemon: Daemon, agents: int, rest: float) -> tuple[Table, Table, float]:
    """The tables of so many agents, and the milliseconds in which 99 of 100 times one has heard of a change."""
    played = [Played(store.access, number) for number in range(agents)]
    etcd = Etcd(store.access)
    tasks = [asyncio.create_task(one.run()) for one in played]
    whole, costs = Table("All of them, milliseconds"), Table(f"At rest, over {rest:.0f} s: percent of a core, and MB")
    try:
        whole.add(
            "all watch, from nothing", milliseconds=1000 * await until(lambda: all(p.watching for p in played), 120)
        )
        await asyncio.sleep(KEEP_SECONDS)
        pids = {
            "etcd": store.pid,
            "one agent": agent.pid,
            "its daemon": daemon.pid,
            "what plays the agents": os.getpid(),
        }
        before = {name: processor_seconds(pid) for name, pid in pids.items()}
        await asyncio.sleep(rest)
        for name, pid in pids.items():
            share = 100 * (processor_seconds(pid) - before[name]) / rest
            costs.add(name, percent_of_a_core=share, MB=resident_bytes(pid) / 1e6)
        delays: list[float] = []
        for number in range(CHANGES):
            begun = time.monotonic()
            revision = await change(etcd, number)
            done = time.monotonic()
            await until(lambda: all(revision in p.seen for p in played), 60)  # noqa: B023 (awaited here)
            found = sorted(1000 * (p.seen[revision] - begun) for p in played)
            delays += found
            whole.add("a change is made", milliseconds=1000 * (done - begun))
            whole.add("until the last one has heard of it", milliseconds=found[-1])
            await applied(agent, revision)
            whole.add("until a real one's daemon runs it", milliseconds=1000 * (time.monotonic() - begun))
            await asyncio.sleep(PAUSE_SECONDS)
        cuts = statistics.quantiles(delays, n=100)
        whole.add("one of them has heard of it, p50", milliseconds=cuts[49])
        whole.add("one of them has heard of it, p99", milliseconds=cuts[98])
        store.kill()
        await asyncio.sleep(DOWN_SECONDS)
        store.start(wait=False)
        again = await until(lambda: all(p.watching for p in played), 120)
        whole.add(f"etcd was killed, and started after {DOWN_SECONDS:.0f} s: all watch", milliseconds=1000 * again)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in [*(p.etcd for p in played), etcd]:
            await one.close()
    return whole, costs, cuts[98]


def main(arguments: list[str] | None = None) -> None:
    """Everything, once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args(arguments or [])
    about = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in machine().items())
    as_a_service()
    with cluster_sessions.site() as (store, daemon, agent):
        agent.start()
        ctl(agent.socket, "--cluster", "network", "create", "flow0", "--addresses", "10.0.0.1-10.0.255.254/16")
        ctl(agent.socket, "--cluster", "create", "core", "--enable", "--flow-network", "flow0")
        rest = 5.0 if asked.quick else 60.0
        played = play(store, agent, daemon, asked.agents, rest)
        whole, costs, reach = store.host.call(lambda: uvloop.run(played))
    derived, followed, loaded = cluster_sessions.measure()
    rows = costs.samples
    figures = {
        f"a change reaches each of {asked.agents} agents, 99 of 100": (reach, 500.0, "ms"),
        "etcd at rest": (rows["etcd"]["percent_of_a_core"][0], 30.0, "% of a core"),
        "an agent at rest": (rows["one agent"]["percent_of_a_core"][0], 0.2, "% of a core"),
        "an agent": (rows["one agent"]["MB"][0], 60.0, "MB"),
        "a host's derivation": (statistics.median(derived.samples["a host's derivation"]["milliseconds"]), 50.0, "ms"),
        "the longest an agent of 10,000 sessions left a client without an answer": (
            max(row["longest_wait_ms"][0] for row in followed.samples.values()),
            50.0,
            "ms",
        ),
    }
    goals = [
        f"- {what}: {number(value)} {unit}, goal less than {number(goal)}: {'met' if value < goal else 'missed'}."
        for what, (value, goal, unit) in figures.items()
    ]
    title = f"# A cluster of {asked.agents} agents and one etcd\n\n{about}\n"
    page = "\n".join([title, *goals, "", whole.markdown(), costs.markdown(), derived.markdown(), followed.markdown()])
    page += f"\nIt has {number(loaded)} MB then.\n"
    if not asked.quick:
        RESULTS.write_text(page)
    print(page)


if __name__ == "__main__":
    main(sys.argv[1:])
