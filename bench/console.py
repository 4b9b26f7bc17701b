"""How soon the console shows something, how it scrolls, and what it costs the daemon: taken by a browser itself.

`python -m bench.console`, as root: three minutes. It writes results/console.md. Goals: first content in less than
300 ms on the loopback, the page less than 300 kB in all, 1,000 sessions scrolled at more than 50 frames/s, and an open
page less than 0.5 % of a core of the daemon.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from bench.machine import machine
from bench.tables import Table
from tests.support.browser import Browser
from tests.support.console import Console
from tests.support.daemon import Daemon
from tests.support.topology import Topology

RESULTS = Path(__file__).parent / "results" / "console.md"
LOADS = 20
SCROLLS = 8
SESSIONS = 1000
RUNNING = 500
TAPS = 20
WATCHED_SECONDS = 30.0  # in which the page asks once for all that is counted
GOAL_MS, GOAL_BYTES, GOAL_FRAMES, GOAL_SHARE = 300, 300_000, 50, 0.005

PAINT = """
const paints = performance.getEntriesByType('paint')
const [loaded] = performance.getEntriesByType('navigation')
const drawn = performance.getEntriesByName('drawn')[0]
const all = [loaded, ...performance.getEntriesByType('resource')].filter((one) => !/[/](v1|console)[/]/.test(one.name))
return [paints.find((one) => one.name === 'first-contentful-paint')?.startTime ?? null,
    drawn?.startTime ?? null, all.reduce((sum, one) => sum + one.transferSize, 0), all.length]"""
SCROLL = """
const box = document.querySelector('.table.virtual')
const times = []
for (let n = 0; n <= 200; n++) {
    box.scrollTop = (box.scrollHeight - box.clientHeight) * n / 200
    times.push(await new Promise(requestAnimationFrame))
}
return times"""


def main() -> None:
    """Loads, then rounds of scrolling; what else runs on the machine only adds."""
    loads = Table("Milliseconds until the first content is painted (Paint Timing), and of a processor; loads")
    scrolls = Table(
        "Frames a second while all sessions of a mirror go by in 200 frames (requestAnimationFrame), rounds"
    )
    with Topology() as net, tempfile.TemporaryDirectory() as directory:
        host = net.host("host")
        for number in range(TAPS):
            net.link(host, f"tap{number}", net.host("guest") if not number else net.host(f"guest{number}"), "eth0")
        net.link(host, "up", net.host("sensor"), "eth0", ("192.0.2.1/24", "192.0.2.9/24"))
        daemon = Daemon(host, Path(directory), _configuration(), up=False)
        console = Console(host, daemon.socket, "--listen", "127.0.0.1:0")
        alone = _share(daemon.pid)
        try:
            with Browser(host, Path(directory)) as browser:
                browser.open(console.address)
                browser.find("nav a")
                key = str(browser.run("return sessionStorage.getItem('mirrord-key')"))
                size = 0
                browser.devtools("Network.enable")
                browser.devtools("Performance.enable", timeDomain="threadTicks")
                for name, cold in [("nothing kept", True), ("kept by the browser", False)]:
                    browser.devtools("Network.setCacheDisabled", cacheDisabled=cold)
                    for _ in range(LOADS):
                        found = _load(browser, console, key)
                        size = max(size, int(found["kB"] * 1000))
                        loads.add(name, **found)
                browser.devtools("Network.setCacheDisabled", cacheDisabled=False)
                for place in ("#/charts", "#/packets", "#/filters", "#/mirrors"):
                    browser.run("location.hash = arguments[0]", place)
                    browser.find("main h1")
                watched = _share(daemon.pid)
                _many(console, key)
                browser.run("location.hash = '#/mirrors/many'")
                browser.wait_text("s0000", "main tbody")
                for _ in range(SCROLLS):
                    before = _spent_ms(browser)
                    deltas = [after - before for before, after in pairwise(browser.run(SCROLL))]
                    spent = (_spent_ms(browser) - before) / len(deltas)
                    frames = 1000 / statistics.mean(deltas)
                    scrolls.add("1,000 sessions", frames=frames, longest_ms=max(deltas), of_a_processor_ms=spent)
            closed = _share(daemon.pid)
        finally:
            console.stop()
            daemon.stop()
    _write(loads, scrolls, size, (alone, watched, closed))


def _configuration() -> str:
    """As many sessions that run as the goal names."""
    lines = ["[mirrors.run]"]
    for number in range(RUNNING):
        to = f'{{ type = "vxlan", remote = "192.0.2.9", vni = {number + 1} }}'
        lines += [
            "[[mirrors.run.sessions]]",
            f'name = "r{number}"',
            f'source = "tap{number % TAPS}"',
            f"destination = {to}",
        ]
    return "\n".join(lines)


def _many(console: Console, key: str) -> None:
    sessions = [
        {
            "name": f"s{n:04}",
            "source": f"tup{n}",
            "destination": {"type": "vxlan", "remote": "192.0.2.9", "vni": 9000 + n},
        }
        for n in range(SESSIONS)
    ]
    made = console.ask("PUT", "/v1/mirrors/many", {"enabled": False, "sessions": sessions}, key=key)
    assert made.status == 201, made.text


def _load(browser: Browser, console: Console, key: str) -> dict[str, float]:
    """One, as by the address that the console prints: the paint, what it took of a processor, bytes, files."""
    token = json.loads(console.ask("POST", "/console/token", key=key).text)["token"]
    browser.open("about:blank")
    served = _ticks(console.pid)
    browser.open(f"{console.url}#token={token}")
    browser.wait(lambda: all(browser.run(PAINT)[:2]), "a paint")
    painted, drawn, taken, files = browser.run(PAINT)
    return {
        "until_paint": painted,
        "until_the_menu": drawn,
        "page's_thread": _spent_ms(browser),
        "server": 1000 * (_ticks(console.pid) - served),
        "kB": taken / 1000,
        "files": files,
    }


def _spent_ms(browser: Browser) -> float:
    """What the page's thread has taken of a processor."""
    metrics = browser.devtools("Performance.getMetrics")["metrics"]
    return next(1000 * float(one["value"]) for one in metrics if one["name"] == "TaskDuration")


def _share(pid: int) -> float:
    """The share of a core that a process takes for a while."""
    before = _ticks(pid)
    time.sleep(WATCHED_SECONDS)
    return (_ticks(pid) - before) / WATCHED_SECONDS


def _ticks(pid: int) -> float:
    """Seconds of a processor that a process has taken: utime and stime of proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _write(loads: Table, scrolls: Table, size: int, shares: tuple[float, float, float]) -> None:
    least = min(loads.samples["nothing kept"]["until_paint"])
    best = max(scrolls.samples["1,000 sessions"]["frames"])
    alone, watched, closed = shares
    goals = [
        (f"first content in less than {GOAL_MS} ms, nothing kept, the least load", f"{least:.0f} ms", least < GOAL_MS),
        (f"less than {GOAL_BYTES // 1000} kB for a load", f"{size / 1000:.0f} kB", size < GOAL_BYTES),
        (f"more than {GOAL_FRAMES} frames/s, the best round", f"{best:.0f} frames/s", best > GOAL_FRAMES),
        (
            f"less than {GOAL_SHARE:.1%} of a core of the daemon for an open page, {RUNNING} sessions",
            f"{watched - alone:+.2%} (alone {alone:.2%}, closed again {closed:.2%})",
            watched - alone < GOAL_SHARE,
        ),
    ]
    about = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in machine().items())
    lines = ["# The console in a browser", "", about, "", "| goal | measured | |", "| --- | --- | --- |"]
    lines += [f"| {goal} | {found} | {'met' if met else 'missed'} |" for goal, found, met in goals]
    RESULTS.write_text("\n".join([*lines, "", loads.markdown(), scrolls.markdown()]))
    print(RESULTS.read_text())


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
