"""How a command asks: one connection, one answer, and the exit status when there is none."""

from __future__ import annotations

import asyncio
import errno
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import click
from rich.console import Console

from mirrord.client import AnsweredError, Client, UnreachableError

T = TypeVar("T")
UNBOUNDED = 1000  # columns, where nobody looks at a screen
REFUSED, UNREACHABLE = 1, 3

ADVICE = {
    errno.ENOENT: "there is no socket: is the daemon running (systemctl status mirrord), and is its `socket` this path?"
    " --socket names another",
    errno.ECONNREFUSED: "nothing listens there any more: start the daemon (systemctl start mirrord)"
    " and see why it ended (journalctl -u mirrord)",
    errno.EACCES: "you may not open it: be root or a member of the group that `socket_group` names"
    " (ls -l shows it; a new membership counts from the next login)",
}


@dataclass(frozen=True, slots=True)
class Asker:
    """Where to ask, and whether the answer is wanted as JSON."""

    path: str
    as_json: bool

    def __call__(self, question: Callable[[Client], Awaitable[Any]], show: Callable[[Any, Console], None]) -> None:
        """Ask, and print the answer; exit 1 or 3 when there is none."""
        self.show(self.answer(question), show)

    def answer(self, question: Callable[[Client], Awaitable[T]]) -> T:
        """What the daemon answers; exit 1 or 3 when it does not."""

        async def ask() -> T:
            async with Client(self.path) as client:
                return await question(client)

        try:
            return asyncio.run(ask())
        except (UnreachableError, AnsweredError) as error:
            self.fail(error)

    def deleted(self, question: Callable[[Client], Awaitable[None]], name: str) -> None:
        """Ask for something to be deleted, and say that it was."""
        self.answer(question)
        self.show({"deleted": name}, say(f"{name}: deleted"))

    def show(self, answer: Any, show: Callable[[Any, Console], None]) -> None:
        """Print what was answered: as JSON, or in words."""
        if self.as_json:
            click.echo(json.dumps(answer, indent=2))
        else:
            show(answer, console())

    def fail(self, error: UnreachableError | AnsweredError) -> NoReturn:
        """Print why there is no answer, and exit."""
        unreachable = isinstance(error, UnreachableError)
        if self.as_json:
            click.echo(json.dumps({"error": error.as_json()}, indent=2), err=True)
        else:
            click.echo(f"mirrorctl: {'the daemon cannot be reached: ' if unreachable else ''}{error}", err=True)
            if isinstance(error, UnreachableError) and error.errno in ADVICE:
                click.echo(f"mirrorctl: {ADVICE[error.errno]}", err=True)
        sys.exit(UNREACHABLE if unreachable else REFUSED)


def console() -> Console:
    """Where answers go: as wide as the terminal, and never folded where there is none. Colours on a terminal only."""
    return Console(width=None if sys.stdout.isatty() else UNBOUNDED, highlight=False, markup=False)


def say(text: str) -> Callable[[Any, Console], None]:
    """Show an answer by this text alone."""
    return lambda _, out: out.print(text)
