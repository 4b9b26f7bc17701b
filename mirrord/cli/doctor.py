"""What is wrong and what to do, as the daemon sees it; and what to look at when no daemon answers."""

from __future__ import annotations

import sys
from typing import Any

import click

from mirrord.cli import complete
from mirrord.cli.asker import REFUSED, Asker
from mirrord.cli.clock import synchronised
from mirrord.cli.screen import Screen
from mirrord.cli.session_rows import place
from mirrord.cli.show import costs, without_ethernet
from mirrord.cli.tables import coloured
from mirrord.client import Client

CLOCK = {
    "severity": "warning",
    "code": "clock",
    "problem": "the clock is not synchronised: time stamps cannot be compared with those of other hosts",
    "remedy": "run chrony, systemd-timesyncd or ptp4l",
    **dict.fromkeys(("mirror", "session", "source"), ""),
}


@click.command()
@click.argument("mirror", required=False, shell_complete=complete.mirrors)
@click.pass_obj
def doctor(ask: Asker, mirror: str | None) -> None:
    """Find what is wrong, with one mirror or with all, and tell what to do.

    Looks at links, routes, next hops, MTU, shaping, rings, counters, the clock, files and the kernel's features.
    Tells also which sources have no Ethernet, and which capabilities the daemon has kept.
    Exit status: 1 when there is an error, 0 when there are warnings at most.
    """
    findings = ask.answer(lambda client: client.doctor(mirror))
    if not synchronised():
        findings.append(CLOCK)
    ask.show(findings, _show)
    if not ask.as_json:
        status = ask.answer(Client.status)
        for one in status["sessions"]:
            if mirror in (None, one["mirror"]) and (said := without_ethernet(one)):
                Screen().print(f"{one['mirror']}/{one['session']} on {place(one)}{said}")
        Screen().print(costs(status))
        Screen().print(f"capabilities of the daemon: {', '.join(status['capabilities'])}")
    if any(one["severity"] == "error" for one in findings):
        sys.exit(REFUSED)


def _show(findings: Any, screen: Screen) -> None:
    for one in findings:
        session = "/".join(part for part in (one["mirror"], one["session"]) if part)
        where = f"{session} on {one['source']}" if one["source"] else session or "host"
        screen.marked(coloured(one["severity"]), f"{where}: {one['problem']}")
        screen.print(f"    {one['remedy']}")
    if not findings:
        screen.print("nothing is wrong")
