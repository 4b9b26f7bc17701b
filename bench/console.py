"""How soon the console shows something, how it scrolls, and what it costs the daemon: taken by a browser itself.

`python -m bench.console`, as root: two minutes. It writes results/console.md. Goals: first content in less than 300 ms
on the loopback, the page less than 300 kB in all, 1,000 sessions scrolled at more than 50 frames/s, and less than 0.5 %
of a core of the daemon for an open page.
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
LOADS = 15
SCROLLS = 8
SESSIONS = 1000
RUNNING = 500
TAPS = 20
WATCHED_SECONDS = 15.0
GOAL_MS, GOAL_BYTES, GOAL_FRAMES, GOAL_SHARE = 300, 300_000, 50, 0.005

PAINT = """
const paints = performance.getEntriesByType('paint')
const [loaded] = performance.getEntriesByType('navigation')
const all = [loaded, ...performance.getEntriesByType('resource')].filter((one) => !/[/](v1|console)[/]/.test(one.name))
return [paints.find((one) => one.name === 'first-contentful-paint')?.startTime ?? null, loaded.responseEnd,
    all.reduce((sum, one) => sum + one.transferSize, 0), all.length]"""
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
    loads = Table("Milliseconds until the first content is painted (Paint Timing), loads")
    scrolls = Table(f"Frames a second while {SESSIONS:,} sessions go by in 200 frames (requestAnimationFrame), rounds")
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
                for name, cold in [("nothing kept", True), ("kept by the browser", False)]:
                    browser.devtools("Network.enable")
                    for _ in range(LOADS):
                        browser.devtools("Network.setCacheDisabled", cacheDisabled=cold)
                        painted, answered, taken, files = _load(browser, console, key)
                        size = max(size, int(taken))
                        loads.add(
                            name, until_paint=painted, until_the_page_is_there=answered, kB=taken / 1000, files=files
                        )
                browser.devtools("Network.setCacheDisabled", cacheDisabled=False)
                for place in ("#/charts", "#/packets", "#/filters", "#/mirrors"):
                    browser.run("location.hash = arguments[0]", place)
                    browser.find("main h1")
                watched = _share(daemon.pid)
                _many(console, key)
                browser.run("location.hash = '#/mirrors/many'")
                browser.wait_text("s0000", "main tbody")
                for _ in range(SCROLLS):
                    times = browser.run(SCROLL)
                    deltas = [after - before for before, after in pairwise(times)]
                    scrolls.add(
                        "the sessions of a mirror", frames=1000 / statistics.mean(deltas), longest_ms=max(deltas)
                    )
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


def _load(browser: Browser, console: Console, key: str) -> tuple[float, float, float, int]:
    """One, as by the address that the console prints: the paint, the page's answer, bytes, files."""
    token = json.loads(console.ask("POST", "/console/token", key=key).text)["token"]
    browser.open("about:blank")
    browser.open(f"{console.url}#token={token}")
    browser.find("main h1")
    browser.wait(lambda: browser.run(PAINT)[0], "a paint")
    painted, answered, taken, files = browser.run(PAINT)
    return painted, answered, taken, files


def _share(pid: int) -> float:
    """The share of a core that a process takes for a while."""

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])  # utime, stime: proc_pid_stat(5)

    before = ticks()
    time.sleep(WATCHED_SECONDS)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / WATCHED_SECONDS


def _write(loads: Table, scrolls: Table, size: int, shares: tuple[float, float, float]) -> None:
    least = min(loads.samples["nothing kept"]["until_paint"])
    best = max(scrolls.samples["the sessions of a mirror"]["frames"])
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
