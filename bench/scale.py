"""Measures what many sessions cost the control plane: start, stop, one change, reload, status, scrape, rest.

`python -m bench.scale [--sessions N ...] [--taps N] [--quick]`, as root: four minutes. It writes results/scale.md. All
sessions are in one mirror, made at run time in one request, without traffic; at last the fewest of them one by one.
While a daemon is asked for something, its smallest resource is asked for again and again on another connection: the
longest wait for that is how long the event loop stood, and what else the machine did meanwhile. At rest it is the
scheduler that tells what each thread ran, in nanoseconds, over stretches of ten seconds; of these the least is the
daemon's own.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.comparison.operation import resident_bytes
from bench.machine import as_a_service, machine
from bench.tables import Table, number
from tests.support.api import Api
from tests.support.daemon import Daemon
from tests.support.loop import Waits
from tests.support.topology import Host, Topology

RESULTS = Path(__file__).parent / "results" / "scale.md"
CHANGES = 7
HUNDRED = 100  # sessions of those that are added one by one are told of together
REST_SECONDS, RESTS = 10.0, 4
SMALL = 1000  # sessions, of which there are most goals
MIRROR = "mirrors/many"
LONG = {"status": "status", "list the mirror": MIRROR, "doctor": "doctor"}
DESCRIPTORS = 4  # of a session whose copies leave by a packet socket


@contextmanager
def timed(table: Table, subject: str, path: Path) -> Iterator[None]:
    """Measure what is done meanwhile, and how long the event loop stood."""
    with Waits(path) as waits:
        begun = time.monotonic()
        yield
        seconds = time.monotonic() - begun
    table.add(subject, milliseconds=1000 * seconds, loop_stood_ms=1000 * waits.longest)


def ask(path: Path, method: str, about: str, body: bytes | None = None) -> None:
    """Have an answer of several megabytes, unparsed, to a body that was made before: this process asks meanwhile, and
    both would hold it up.
    """
    connection = http.client.HTTPConnection("mirrord", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request(method, f"/v1/{about}", body, {} if body is None else {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status in (http.client.OK, http.client.CREATED), answer.status
    assert answer.read()
    connection.close()


def sessions(count: int, taps: int) -> list[dict[str, Any]]:
    """Where the process may not have descriptors for more, copies leave by a socket that the kernel routes."""
    way = {"type": "vxlan", "remote": "10.77.0.2"}
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    transmit = "auto" if count * DESCRIPTORS < most - 1000 else "socket"
    return [
        {"name": f"s{n}", "source": f"tap{n % taps}", "destination": {**way, "vni": n + 1}, "transmit": transmit}
        for n in range(count)
    ]


def make_devices(host: Host, taps: int) -> None:
    devices = [f"tap{n}" for n in range(taps)]
    batch = [f"link add {device} type ifb\nlink set {device} up" for device in (*devices, "sink")]
    batch += ["address add 10.77.0.1/24 dev sink", "neighbour add 10.77.0.2 lladdr 02:00:00:00:00:02 dev sink"]
    host.run("ip", "-batch", "-", stdin="\n".join(batch), seconds=120)


def ran(pid: int) -> float:
    """Seconds that all its threads together ran (schedstats of the kernel's documentation)."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def measure(host: Host, count: int, taps: int, *, quick: bool) -> tuple[Table, Table, Table]:
    """The tables of so many sessions: the process, what it is asked for, and at rest."""
    whole, asked = Table(f"{count} sessions on {taps} taps: the process"), Table(f"{count} sessions: what is asked for")
    idle = Table(f"{count} sessions: at rest")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        daemon = Daemon(host, directory, "", up=False)
        api = Api(daemon.socket)
        body = json.dumps({"sessions": sessions(count, taps)}).encode()
        with timed(asked, "make the mirror", daemon.socket):
            ask(daemon.socket, "PUT", MIRROR, body)
        daemon.stop(120)
        begun = time.monotonic()
        daemon = Daemon(host, directory, "", up=False)
        started = time.monotonic() - begun
        up = daemon.metrics().total("mirrord_session_up")
        assert up == count, up
        for n in range(CHANGES):
            with timed(asked, "change a session", daemon.socket):
                answer = api("PATCH", f"{MIRROR}/sessions/s7", {"snaplen": 100 + n})
            assert answer.status == http.client.OK, answer.body
        for n in range(CHANGES):
            with timed(asked, "describe the mirror", daemon.socket):
                ask(daemon.socket, "PATCH", MIRROR, json.dumps({"description": f"the {n}th"}).encode())
        for n in range(CHANGES):
            more = {**sessions(count + n + 1, taps)[-1], "name": "more"}
            with timed(asked, "add a session", daemon.socket):
                assert api("POST", f"{MIRROR}/sessions", more).status == http.client.CREATED
            with timed(asked, "delete a session", daemon.socket):
                assert api("DELETE", f"{MIRROR}/sessions/more").status == http.client.NO_CONTENT
        for _ in range(CHANGES):
            with timed(asked, "reload", daemon.socket):
                api("POST", "reload")
            for subject, about in LONG.items():
                with timed(asked, subject, daemon.socket):
                    ask(daemon.socket, "GET", about)
            with timed(asked, "scrape", daemon.socket):
                daemon.scrape()
        for _ in range(RESTS if count <= SMALL and not quick else 1):
            before = ran(daemon.pid)
            time.sleep(REST_SECONDS)
            idle.add("mirrord", percent_of_a_core=100 * (ran(daemon.pid) - before) / REST_SECONDS)
        resident = resident_bytes(daemon.pid)
        descriptors = len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))
        begun = time.monotonic()
        status, output = daemon.stop(120)
        stopped = time.monotonic() - begun
        assert status == 0, output
        whole.add(
            "mirrord",
            exec_to_all_up_s=started,
            SIGTERM_to_exit_s=stopped,
            resident_MB=resident / 1e6,
            descriptors=descriptors,
        )
    return whole, asked, idle


def one_by_one(host: Host, count: int, taps: int) -> Table:
    """What it takes to add so many sessions, and to delete them, as a script of an operator's does."""
    table = Table(f"{count} sessions one by one")
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(host, Path(folder), "", up=False)
        api = Api(daemon.socket)
        assert api("PUT", MIRROR, {"sessions": []}).status == http.client.CREATED
        wanted = sessions(count, taps)
        for subject, asked, answered in (
            ("add", [("POST", f"{MIRROR}/sessions", one) for one in wanted], http.client.CREATED),
            (
                "delete",
                [("DELETE", f"{MIRROR}/sessions/{one['name']}", None) for one in wanted],
                http.client.NO_CONTENT,
            ),
        ):
            taken = []
            for request in asked:
                begun = time.monotonic()
                assert api(*request).status == answered
                taken.append(time.monotonic() - begun)
            table.add(
                subject,
                first_hundred_ms_each=1000 * sum(taken[:HUNDRED]) / HUNDRED,
                last_hundred_ms_each=1000 * sum(taken[-HUNDRED:]) / HUNDRED,
                all_s=sum(taken),
            )
        daemon.stop(120)
    return table


def judged(count: int, whole: Table, asked: Table, idle: Table) -> Iterator[str]:
    """Each goal, and whether it is met."""
    process = {name: values[0] for name, values in whole.samples["mirrord"].items()}
    took = {subject: statistics.median(row["milliseconds"]) for subject, row in asked.samples.items()}
    stood = {subject: statistics.median(row["loop_stood_ms"]) for subject, row in asked.samples.items()}
    longest = max(stood, key=lambda subject: stood[subject])
    soon = 100.0 if count <= SMALL else 500.0
    changes = ("change a session", "add a session", "delete a session")
    figures = {subject: (took[subject], soon, "ms") for subject in changes}
    figures[f"the event loop stands ({longest})"] = stood[longest], 50.0, "ms"
    if count <= SMALL:
        figures["exec to all up"] = process["exec_to_all_up_s"], 2.0, "s"
        figures["SIGTERM to exit"] = process["SIGTERM_to_exit_s"], 1.0, "s"
        figures["resident memory"] = process["resident_MB"], 100.0, "MB"
        figures["at rest"] = min(idle.samples["mirrord"]["percent_of_a_core"]), 0.5, "% of a core"
    for what, (value, goal, unit) in figures.items():
        met = "met" if value <= goal else "missed"
        yield f"- {count} sessions, {what}: {number(value)} {unit}, goal at most {number(goal)}: {met}."


def main(arguments: list[str] | None = None) -> None:
    """Each number of sessions, once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, nargs="+", default=[SMALL, 5000])
    parser.add_argument("--taps", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="rest for a moment only, and print")
    options = parser.parse_args(arguments or [])
    about = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in machine().items())
    as_a_service()
    goals: list[str] = []
    tables: list[str] = []
    with Topology() as net:
        host = net.host("mirror")
        make_devices(host, options.taps)
        for count in options.sessions:
            found = measure(host, count, options.taps, quick=options.quick)
            goals += judged(count, *found)
            tables += [table.markdown() for table in found]
        tables.append(one_by_one(host, min(options.sessions), options.taps).markdown())
    title = f"# Many sessions in one mirror\n\n{about}; at the end {os.getloadavg()[0]:.2f}\n"
    page = "\n".join([title, *goals, "", *tables])
    if not options.quick:
        RESULTS.write_text(page)
    print(page)


if __name__ == "__main__":
    main(sys.argv[1:])
