"""A live table of what every session does: frames and bits a second, drops by cause."""

from __future__ import annotations

from typing import Any

import click

from mirrord.cli.asker import Asker
from mirrord.cli.screen import Screen
from mirrord.cli.session_rows import place
from mirrord.cli.show import print_remotes, show_or_watch
from mirrord.cli.tables import Cell, Table, coloured, name, scaled, whole, words
from mirrord.client import Client


@click.command()
@click.option("--once", is_flag=True, help="Print one table and end, as without a terminal.")
@click.pass_obj
def top(ask: Asker, *, once: bool) -> None:
    """Watch the sessions live, the busiest first; q or Ctrl-C ends it."""
    show_or_watch(ask, Client.status, picture, live=not once)


def picture(status: Any, screen: Screen) -> None:
    """The daemon's status as a line about the host and a table of the sessions, the busiest first."""
    sessions = sorted(status["sessions"], key=lambda one: -one["bits_per_second"])
    up = sum(one["state"] == "up" for one in sessions)
    frames, bits = (sum(one[f"{what}_per_second"] for one in sessions) for what in ("frames", "bits"))
    line = f"mirrord {status['version']}, {status['dataplane']} data plane: {up} of {len(sessions)} up,"
    screen.print(f"{line} {scaled(frames)} frames/s, {scaled(bits)} bits/s")
    screen.table(_sessions(sessions))
    print_remotes(sessions, screen)


def _sessions(sessions: list[Any]) -> Table:
    shown = Table(
        [
            name("MIRROR"),
            name("SESSION"),
            whole("SOURCE", 1),
            whole("STATE"),
            whole("FRAMES/S", 3),
            whole("BITS/S"),
            whole("CAPTURED", 4),
            whole("DROPPED"),
            words("BY CAUSE", 2),
        ]
    )
    for one in sessions:
        lost = {cause: count for cause, count in one["counters"]["dropped_frames"].items() if count}
        shown.row(
            one["mirror"],
            one["session"],
            place(one),
            coloured(one["state"]),
            scaled(one["frames_per_second"]),
            scaled(one["bits_per_second"]),
            one["counters"]["captured_frames"],
            Cell(str(sum(lost.values())), "red" if lost else ""),
            ", ".join(f"{cause} {count}" for cause, count in lost.items()) or one["reason"],
        )
    return shown
