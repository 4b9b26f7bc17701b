"""What is there and how it does: status, list, show; and reload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from mirrord.cli.asker import Asker
from mirrord.cli.change import mirror_argument
from mirrord.cli.tables import coloured, origin, row, scaled, table, word, written
from mirrord.client import Client
from mirrord.model import Session

ALWAYS = ("source", "destination", "direction")
"""Keys of a session that are shown whatever they say; others when they are not as by default."""

ENDS = {"source": "eth0", "destination": {"type": "device", "device": "eth1"}}
DEFAULTS = Session.model_validate({"name": "s", **ENDS}).model_dump(mode="json", exclude={"name", *ENDS})


@click.command()
@click.pass_obj
def status(ask: Asker) -> None:
    """Show the daemon and every session: state, rates, drops."""

    def show(answer: Any, console: Console) -> None:
        console.print(
            f"mirrord {answer['version']}, pid {answer['pid']}, {answer['dataplane']} data plane,"
            f" {answer['config']['path']}"
        )
        console.print(f"capabilities: {', '.join(answer['capabilities'])}")
        for problem in answer["config"]["problems"]:
            console.print(f"last reload refused: {problem}", style="red")
        if answer["state"]["problem"]:
            console.print(f"state database: {answer['state']['problem']}", style="red")
        for one in answer["config"]["set_aside"]:
            console.print(f"{one['section']}.{one['name']} does not run: {one['reason']}", style="red")
        for one in answer["expired"]:
            console.print(f"{one['mirror']} does not run: its time was over at {one['expires']}", style="yellow")
        for warning in answer["config"]["warnings"]:
            console.print(f"warning: {warning}", style="yellow")
        _print_sessions(answer["sessions"], console)

    ask(Client.status, show)


@click.command("list")
@click.pass_obj
def list_(ask: Asker) -> None:
    """List the mirrors, with the number of their sessions and what these have mirrored and lost."""

    def show(answer: Any, console: Console) -> None:
        shown = table("MIRROR", "ENABLED", "SESSIONS", "UP", "MIRRORED", "DROPPED", "ORIGIN", "DESCRIPTION")
        for mirror in answer:
            running = [source for session in mirror["sessions"] for source in session["running"]]
            up = f"{sum(source['state'] == 'up' for source in running)}/{len(running)}"
            enabled = "expired" if mirror["expired"] else "yes" if mirror["enabled"] else "no"
            mirrored = sum(source["counters"]["mirrored_frames"] for source in running)
            counts = len(mirror["sessions"]), up, mirrored, _dropped(running)
            row(shown, mirror["name"], enabled, *counts, origin(mirror), mirror["description"])
        console.print(shown)

    ask(Client.mirrors, show)


@click.command()
@mirror_argument
@click.pass_obj
def show(ask: Asker, mirror: str) -> None:
    """Show one mirror and its sessions, with counters."""

    def show(answer: Any, console: Console) -> None:
        enabled = "enabled" if answer["enabled"] else "disabled"
        if answer["expires"]:
            enabled += f", {'expired' if answer['expired'] else 'expires'} {answer['expires']}"
        network = f", flow network {answer['flow_network']}" if answer["flow_network"] else ""
        console.print(f"{answer['name']}: {enabled}{network}, origin {origin(answer)}. {answer['description']}")
        for session in answer["sessions"]:
            console.print(f"{session['name']}: {_settings(session)}")
        sources = [source for session in answer["sessions"] for source in session["running"]]
        if sources:
            _print_sessions(sources, console)
        for source in sources:
            _print_counters(source, console)

    ask(lambda client: client.mirror(mirror), show)


@click.command()
@click.pass_obj
def reload(ask: Asker) -> None:
    """Have the daemon read its configuration again, as SIGHUP does."""
    ask(Client.reload, lambda answer, console: console.print(f"reloaded {answer['reloaded']}"))


def _settings(session: Any) -> str:
    """The session's keys in words, those left out that are as by default."""
    return "; ".join(
        f"{key} {written(value) if isinstance(value, dict) else word(value)}"
        for key, value in session.items()
        if key in ALWAYS or value != DEFAULTS.get(key, value)
    )


def _print_sessions(sessions: Sequence[Any], console: Console) -> None:
    shown = table("MIRROR", "SESSION", "SOURCE", "DESTINATION", "STATE", "FRAMES/S", "BITS/S", "MIRRORED", "DROPPED")
    for session in sessions:
        row(
            shown,
            session["mirror"],
            session["session"],
            session["source"],
            session["destination"],
            coloured(session["state"]),
            scaled(session["frames_per_second"]),
            scaled(session["bits_per_second"]),
            session["counters"]["mirrored_frames"],
            _dropped([session]),
        )
    console.print(shown)
    for session in sessions:
        for remark in filter(None, [session["reason"], *session["warnings"]]):
            where = f"{session['mirror']}/{session['session']} on {session['source']}"
            console.print(f"{where}: {session['state']}: {remark}")


def _dropped(sources: Sequence[Any]) -> Text:
    """How many frames were lost, in red if there are any."""
    dropped = sum(count for source in sources for count in source["counters"]["dropped_frames"].values())
    return Text(str(dropped), "red" if dropped else "")


def _print_counters(source: Any, console: Console) -> None:
    console.print(f"\n{source['session']} on {source['source']}")
    shown = table("COUNTER", "VALUE")
    for name, value in source["counters"].items():
        if isinstance(value, dict):
            for label, count in value.items():
                if count:
                    row(shown, f"{name} {label}", count)
        else:
            row(shown, name, value)
    console.print(shown)
