"""Where answers go: standard output, as wide as its terminal, or without an edge where there is none."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from mirrord.cli.tables import Cell, Table, plain

PERIOD_SECONDS = 1.0  # the daemon works out rates as often
QUIT = set(b"qQ\x04")  # the last is Ctrl-D
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # xterm: another screen, no cursor; and back
HOME, TO_LINE_END, TO_END = "\x1b[H", "\x1b[K", "\x1b[J"


class Screen:
    """Collects nothing: each line is printed at once. Colours on a terminal only, and not where NO_COLOR is set."""

    def __init__(self, echo: Callable[[str], None] | None = None) -> None:
        self.width = _size().columns if echo or sys.stdout.isatty() else None
        self._echo = echo or _echo

    def print(self, text: str, colour: str = "") -> None:
        """A text of one or more lines."""
        for line in text.split("\n"):
            self._echo(click.style(plain(line), fg=colour) if colour else plain(line))

    def marked(self, mark: Cell, text: str) -> None:
        """A text behind a word in its colour."""
        self._echo(f"{click.style(plain(mark.text), fg=mark.colour or None)} {plain(text)}")

    def table(self, table: Table) -> None:
        """A table, as wide as there is room for."""
        for line in table.lines(self.width):
            self._echo(line)


def _echo(line: str) -> None:
    click.echo(line, color=False if os.environ.get("NO_COLOR") else None)


def _size() -> os.terminal_size:
    """COLUMNS and LINES if they are set, else what the terminal says; shutil's takes long to import."""
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        found = os.terminal_size((80, 24))
    given = [os.environ.get(key, "") for key in ("COLUMNS", "LINES")]
    columns, lines = (
        int(text) if text.isdecimal() and int(text) else there for text, there in zip(given, found, strict=True)
    )
    return os.terminal_size((columns, lines))


def watched() -> bool:
    """Whether a person looks: both ends are a terminal's."""
    return sys.stdout.isatty() and sys.stdin.isatty()


def watch(draw: Callable[[Screen], None]) -> None:
    """Draw on a screen of its own, anew each second, until a key or Ctrl-C ends it. Raises what `draw` raises."""
    with _keys() as pressed:
        click.echo(ENTER, nl=False)
        try:
            while not pressed(0):
                lines: list[str] = []
                begun = time.monotonic()
                draw(Screen(lines.append))
                size = _size()
                shown = lines[: size.lines - 1]
                click.echo(HOME + "".join(f"{line}{TO_LINE_END}\n" for line in shown) + TO_END, nl=False)
                if pressed(max(begun + PERIOD_SECONDS - time.monotonic(), 0)):
                    return
        except KeyboardInterrupt:
            pass
        finally:
            click.echo(LEAVE, nl=False)


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Have the terminal hand over each key as it is pressed; what is given waits so long for one that quits."""
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)

    def pressed(seconds: float) -> bool:
        end = time.monotonic() + seconds
        while True:
            if not select.select([number], [], [], max(end - time.monotonic(), 0))[0]:
                return False
            try:
                keys = os.read(number, 64)
            except OSError:  # the terminal has gone
                keys = b""
            if not keys or QUIT & set(keys):
                return True

    tty.setcbreak(number)
    try:
        yield pressed
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
