"""`mirrorctl`: asks the daemon and shows its answer. A command is one function here.

Exit status: 0 done, 1 refused or failed, 2 bad usage, 3 the daemon cannot be reached.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mirrord import __version__
from mirrord.client import AnsweredError, Client, UnreachableError

DEFAULT_SOCKET = "/run/mirrord/mirrord.sock"
COLOURS = {"up": "green", "waiting": "yellow", "failed": "red", "paused": "yellow"}
UNBOUNDED = 1000  # columns, where nobody looks at a screen
FACTORS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, slots=True)
class Asker:
    """Where to ask, and how to show the answer."""

    path: str
    as_json: bool

    def __call__(self, question: Callable[[Client], Awaitable[Any]], show: Callable[[Any, Console], None]) -> None:
        """Ask, and print the answer; exit 1 or 3 when there is none."""

        async def ask() -> Any:
            async with Client(self.path) as client:
                return await question(client)

        try:
            answer = asyncio.run(ask())
        except UnreachableError as error:
            click.echo(f"mirrorctl: the daemon cannot be reached: {error}", err=True)
            sys.exit(3)
        except AnsweredError as error:
            click.echo(f"mirrorctl: {error}", err=True)
            sys.exit(1)
        if self.as_json:
            click.echo(json.dumps(answer, indent=2))
        else:
            show(answer, Console(width=None if sys.stdout.isatty() else UNBOUNDED))


@click.group()
@click.option("--socket", "path", default=DEFAULT_SOCKET, show_default=True, help="The daemon's control socket.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@click.version_option(__version__, prog_name="mirrorctl")
@click.pass_context
def main(context: click.Context, path: str, *, as_json: bool) -> None:
    """Look at mirrord and change what it mirrors."""
    context.obj = Asker(path, as_json)


@main.command()
@click.pass_obj
def status(ask: Asker) -> None:
    """Show the daemon and every session: state, rates, drops."""

    def show(answer: Any, console: Console) -> None:
        console.print(
            f"mirrord {answer['version']}, pid {answer['pid']}, {answer['dataplane']} data plane,"
            f" {answer['config']['path']}",
            highlight=False,
        )
        for problem in answer["config"]["problems"]:
            console.print(f"last reload refused: {problem}", style="red", highlight=False, markup=False)
        _print_sessions(answer["sessions"], console)

    ask(Client.status, show)


@main.command("list")
@click.pass_obj
def list_(ask: Asker) -> None:
    """List the mirrors."""

    def show(answer: Any, console: Console) -> None:
        table = _table("MIRROR", "ENABLED", "SESSIONS", "UP", "DESCRIPTION")
        for mirror in answer:
            running = [source for session in mirror["sessions"] for source in session["running"]]
            up = sum(source["state"] == "up" for source in running)
            enabled = "yes" if mirror["enabled"] else "no"
            _row(table, mirror["name"], enabled, len(mirror["sessions"]), f"{up}/{len(running)}", mirror["description"])
        console.print(table)

    ask(Client.mirrors, show)


@main.command()
@click.argument("mirror")
@click.pass_obj
def show(ask: Asker, mirror: str) -> None:
    """Show one mirror and its sessions, with counters."""

    def show(answer: Any, console: Console) -> None:
        enabled = "enabled" if answer["enabled"] else "disabled"
        console.print(f"{answer['name']}: {enabled}. {answer['description']}", highlight=False, markup=False)
        sources = [source for session in answer["sessions"] for source in session["running"]]
        _print_sessions(sources, console)
        for source in sources:
            _print_counters(source, console)

    ask(lambda client: client.mirror(mirror), show)


@main.command()
@click.pass_obj
def reload(ask: Asker) -> None:
    """Have the daemon read its configuration again."""
    ask(Client.reload, lambda answer, console: console.print(f"reloaded {answer['reloaded']}", highlight=False))


def _print_sessions(sessions: Sequence[Any], console: Console) -> None:
    table = _table("MIRROR", "SESSION", "SOURCE", "DESTINATION", "STATE", "FRAMES/S", "BITS/S", "MIRRORED", "DROPPED")
    for session in sessions:
        counters = session["counters"]
        _row(
            table,
            session["mirror"],
            session["session"],
            session["source"],
            session["destination"],
            Text(session["state"], COLOURS.get(session["state"], "")),
            _scaled(session["frames_per_second"]),
            _scaled(session["bits_per_second"]),
            counters["mirrored_frames"],
            sum(counters["dropped_frames"].values()),
        )
    console.print(table)
    for session in sessions:
        for remark in filter(None, [session["reason"], *session["warnings"]]):
            where = f"{session['mirror']}/{session['session']} on {session['source']}"
            console.print(f"{where}: {session['state']}: {remark}", highlight=False, markup=False)


def _print_counters(source: Any, console: Console) -> None:
    console.print(f"\n{source['session']} on {source['source']}", highlight=False, markup=False)
    table = _table("COUNTER", "VALUE")
    for name, value in source["counters"].items():
        if isinstance(value, dict):
            for label, count in value.items():
                _row(table, f"{name} {label}", count)
        else:
            _row(table, name, value)
    console.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _row(table: Table, *cells: object) -> None:
    table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells))


def _scaled(value: float) -> str:
    """A rate in three figures, in SI units."""
    for factor, unit in FACTORS:
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.0f}"


if __name__ == "__main__":
    main()
