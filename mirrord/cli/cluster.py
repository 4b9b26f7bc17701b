"""A cluster as a whole: its hosts, how it does, and waiting until every host has what was changed."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from mirrord.cli import complete
from mirrord.cli.asker import REFUSED, Asker
from mirrord.cli.group import changes
from mirrord.cli.screen import Screen
from mirrord.cli.session_rows import print_sessions
from mirrord.cli.tables import Cell, Table, coloured, name, whole, words
from mirrord.client import Client
from mirrord.errors import some

LOOK_SECONDS = 0.1
CONFLICT = "conflict"
"""No host, but addresses that something else has."""


@click.command()
@click.pass_obj
def hosts(ask: Asker) -> None:
    """List the hosts of the cluster: whether they live, what they run, and which are behind."""
    ask(Client.hosts, _show_hosts)


@click.command()
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(0, 86400), default=30.0, show_default=True)
@click.pass_obj
def wait(ask: Asker, timeout: float) -> None:
    """Wait until every host that lives runs what was changed before; exit status 1 where one does not in time."""
    until = time.monotonic() + timeout
    while True:
        found = ask.answer(Client.hosts)
        living = [one for one in found if one["alive"]]
        late = [one for one in living if one["behind"] or one["problem"]]
        if living and not late:
            ask.show({"behind": [], "away": _away(found)}, _show_done)
            return
        if not time.monotonic() < until:
            ask.show({"behind": late}, _show_late)
            sys.exit(REFUSED)
        time.sleep(LOOK_SECONDS)


@click.command()
@click.argument("host", shell_complete=complete.hosts)
@changes
@click.pass_obj
def forget_host(ask: Asker, host: str) -> None:
    """Free the addresses of a host that will not come back, and forget how it did. Its agent must not run."""
    ask.deleted(lambda client: client.forget_host(host), host)


def show_status(answer: Any, screen: Screen) -> None:
    """The cluster, its hosts and sessions."""
    cluster = answer["cluster"]
    seen = "connected" if cluster["connected"] else f"not connected for {cluster['behind_seconds']:.0f} s"
    screen.print(f"cluster {cluster['id'] or '(none yet)'}, asked at {cluster['host']}: {seen}, {cluster['endpoint']}")
    for key, what in (
        ("problem", "the store"),
        ("own_problem", "what this host writes to the store"),
        ("daemon_problem", "the daemon here"),
    ):
        if cluster[key]:
            screen.print(f"{what}: {cluster[key]}", "red")
    for alarm in cluster["alarms"]:
        screen.print(f"the store has the alarm {alarm}", "red")
    if not cluster["connected"]:
        screen.print("of other hosts nothing is known now: what follows is of this host alone", "yellow")
    for one in answer["unread"]:
        screen.print(f"cannot be used: {one['path']}: {one['message']}", "red")
    _show_hosts(answer["hosts"], screen)
    print_sessions(answer["sessions"], screen)


def _show_hosts(found: Any, screen: Screen) -> None:
    columns = [name("HOST"), whole("AGENT"), whole("VERSION", 3), whole("ADDRESSES", 2), whole("SESSIONS"), whole("UP")]
    shown = Table([*columns, whole("BEHIND"), words("PROBLEM", 1)])
    for one in found:
        agent = coloured("up") if one["alive"] else Cell("away", "red")
        addresses = " ".join(one["addresses"].values())
        behind = Cell("yes", "yellow") if one["behind"] else "no"
        unread = f"{len(one['unread'])} records cannot be used" if one["unread"] else ""
        problem = "; ".join(filter(None, [one["problem"], unread]))
        shown.row(one["host"], agent, one["mirrord"], addresses, one["sessions"], one["up"], behind, problem)
    screen.table(shown)


def _away(found: Any) -> list[str]:
    return [one["host"] for one in found if not one["alive"] and one["host"] != CONFLICT]


def _show_done(answer: Any, screen: Screen) -> None:
    away = answer["away"]
    screen.print("every host that lives has it" + (f"; not waited for, since away: {some(away)}" if away else ""))


def _show_late(answer: Any, screen: Screen) -> None:
    if not answer["behind"]:
        screen.print("no host lives: see mirrorctl --cluster status", "red")
    for one in answer["behind"]:
        screen.print(f"{one['host']} is behind: {one['problem'] or 'it runs an older configuration'}", "red")
