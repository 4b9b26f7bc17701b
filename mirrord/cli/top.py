"""A live table of what every session does: frames and bits a second, drops by cause."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mirrord.cli.asker import Asker, console
from mirrord.cli.tables import coloured, row, scaled, table
from mirrord.client import AnsweredError, Client, UnreachableError

PERIOD_SECONDS = 1.0  # the daemon works out rates as often
QUIT = set(b"qQ\x04")  # the last is Ctrl-D


@click.command()
@click.option("--once", is_flag=True, help="Print one table and end, as without a terminal.")
@click.pass_obj
def top(ask: Asker, *, once: bool) -> None:
    """Watch the sessions live, the busiest first; q or Ctrl-C ends it."""
    if once or ask.as_json or not (sys.stdout.isatty() and sys.stdin.isatty()):
        ask(Client.status, lambda answer, out: out.print(picture(answer)))
        return
    with suppress(KeyboardInterrupt):
        try:
            asyncio.run(_watch(ask.path))
        except (UnreachableError, AnsweredError) as error:
            ask.fail(error)


def picture(status: Any) -> Group:
    """The daemon's status as a line about the host and a table of the sessions, the busiest first."""
    sessions = sorted(status["sessions"], key=lambda one: -one["bits_per_second"])
    up = sum(one["state"] == "up" for one in sessions)
    frames, bits = (sum(one[f"{what}_per_second"] for one in sessions) for what in ("frames", "bits"))
    line = f"mirrord {status['version']}, {status['dataplane']} data plane: {up} of {len(sessions)} up,"
    return Group(Text(f"{line} {scaled(frames)} frames/s, {scaled(bits)} bits/s"), _sessions(sessions))


def _sessions(sessions: list[Any]) -> Table:
    shown = table("MIRROR", "SESSION", "SOURCE", "STATE", "FRAMES/S", "BITS/S", "CAPTURED", "DROPPED", "BY CAUSE")
    for one in sessions:
        lost = {cause: count for cause, count in one["counters"]["dropped_frames"].items() if count}
        dropped = Text(str(sum(lost.values())), "red" if lost else "")
        row(
            shown,
            one["mirror"],
            one["session"],
            one["source"],
            coloured(one["state"]),
            scaled(one["frames_per_second"]),
            scaled(one["bits_per_second"]),
            one["counters"]["captured_frames"],
            dropped,
            ", ".join(f"{cause} {count}" for cause, count in lost.items()) or one["reason"],
        )
    return shown


async def _watch(path: str) -> None:
    """Show the picture anew each second until a key ends it. Raises what the client raises."""
    async with Client(path) as client:
        ended = asyncio.Event()
        with _keys(ended), Live(picture(await client.status()), console=console(), screen=True) as live:
            while not ended.is_set():
                live.update(picture(await client.status()), refresh=True)
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), PERIOD_SECONDS)


@contextmanager
def _keys(ended: asyncio.Event) -> Iterator[None]:
    """Have the terminal hand over each key as it is pressed, and set `ended` at one that quits."""
    loop, number = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(number)

    def pressed() -> None:
        try:
            keys = os.read(number, 64)
        except OSError:  # the terminal has gone
            keys = b""
        if not keys or QUIT & set(keys):
            ended.set()

    tty.setcbreak(number)
    loop.add_reader(number, pressed)
    try:
        yield
    finally:
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSADRAIN, before)
