"""capture: a pcapng of what a session mirrors, live or of the last while, to a file or down a pipe."""

from __future__ import annotations

import contextlib
import itertools
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from mirrord import periods
from mirrord.cli import complete
from mirrord.cli.arguments import read_by
from mirrord.cli.asker import Asker
from mirrord.client import AnsweredError, Client, UnreachableError
from mirrord.errors import nearest

STATISTICS, PACKET = 5, 6  # draft-ietf-opsawg-pcapng 4.6, 4.3
BLOCK = struct.Struct("<II")  # type and length
LOST = struct.Struct("<20xHHQ")  # what the daemon writes of a statistics block: an option and the count in it
TELL_SECONDS = 1.0


def _period(text: str) -> str:
    periods.parse(text)
    return text


@click.command()
@click.argument("session", metavar="[MIRROR/]SESSION", shell_complete=complete.captured)
@click.option(
    "-w", "output", metavar="FILE|-", default="-", show_default=True, help="Where to write; -: standard output."
)
@click.option("--source", metavar="DEVICE", help="Which source device, where the session has several.")
@click.option(
    "--last",
    metavar="TIME",
    callback=read_by(_period),
    help="What it has mirrored in that time (30s, 5m), as its recorder keeps it; then end.",
)
@click.option("--follow", is_flag=True, help="With --last: go on live, without a gap and without a double.")
@click.pass_obj
def capture(ask: Asker, session: str, output: str, source: str | None, last: str | None, *, follow: bool) -> None:
    """Write what a session mirrors, live, as pcapng; the session does not notice.

    Its mirror need not be named where no other has a session of that name. Ctrl-C, SIGINT or SIGTERM ends it.
    FILE is written from the moment on that the daemon sends something: a refusal leaves it as it is.

    Into Wireshark: mirrorctl capture web/vm2 -w - | wireshark -k -i -
    """
    if follow and last is None:
        raise click.UsageError("--follow goes with --last; without it a capture is live")
    mirror, slash, name = session.partition("/")
    if not slash:
        mirror, name = _mirror_of(ask, session), session
    if ask.cluster:
        raise click.UsageError(_where(ask, mirror, name))
    if output == "-" and sys.stdout.isatty():
        raise click.BadParameter("standard output is a terminal: name a file, or pipe it on", param_hint="-w")
    try:
        _copy(ask.client().capture(mirror, name, source, last, follow=follow), output)
    except (UnreachableError, AnsweredError) as error:
        ask.fail(error)
    except BrokenPipeError:  # who read it has seen enough
        sys.stderr.close()
    except OSError as error:
        click.echo(f"mirrorctl: {output}: {error.strerror}", err=True)
        sys.exit(1)


def _mirror_of(ask: Asker, session: str) -> str:
    """The mirror that a session of this name is in; exit 1 where there is none, 2 where there are several."""
    names = [(mirror["name"], one["name"]) for mirror in ask.answer(Client.mirrors) for one in mirror["sessions"]]
    found = [mirror for mirror, name in names if name == session]
    if not found:
        ask.fail(AnsweredError("not_found", f"no such session: {session}{nearest(session, [n for _, n in names])}", ""))
    if len(found) > 1:
        which = " or ".join(f"{mirror}/{session}" for mirror in found)
        raise click.BadParameter(f"several mirrors have it: expected {which}", param_hint="SESSION")
    return str(found[0])


def _where(ask: Asker, mirror: str, session: str) -> str:
    """On which hosts of the cluster a session can be captured, each by the name that its half has there."""
    rows = [
        one for one in ask.answer(Client.status)["sessions"] if (one["mirror"], one["session"]) == (mirror, session)
    ]
    names = {one["host"]: f"{session}{'.in' if one['side'] == 'destination' else ''}" for one in rows if one["host"]}
    ways = [f"on {host}, mirrorctl capture {mirror}/{name}" for host, name in sorted(names.items())]
    return f"capture is of one host: {' or '.join(ways) or 'and none has this session now'}"


class _EndedError(Exception):
    """A signal has come."""


def _end(*_: object) -> None:
    raise _EndedError


def _copy(chunks: Iterator[bytes], output: str) -> None:
    progress, begun = Progress(), False
    # A script's shell has what it begins beside itself ignore the first.
    before = {number: signal.signal(number, _end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        first = next(chunks, b"")  # a refusal comes before it
        with contextlib.nullcontext(sys.stdout.buffer) if output == "-" else Path(output).open("wb") as file:
            begun = True
            for chunk in itertools.chain([first], chunks):
                file.write(chunk)
                file.flush()
                progress.add(chunk)
    except _EndedError:
        pass
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # the end is on its way
        if begun:
            progress.end()
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """A line on the terminal that says how much has come. None where standard error is no terminal, but at the end."""

    def __init__(self) -> None:
        self._packets = self._bytes = self._lost = 0
        self._skip = 0  # bytes until the next block begins
        self._rest = b""
        self._begun = self._told = time.monotonic()

    def add(self, chunk: bytes) -> None:
        """Count what came."""
        self._bytes += len(chunk)
        data = self._rest + chunk
        at = self._skip
        while at + BLOCK.size <= len(data):
            kind, length = BLOCK.unpack_from(data, at)
            if kind == STATISTICS:
                if len(data) < at + LOST.size:
                    break
                _, _, self._lost = LOST.unpack_from(data, at)
            self._packets += kind == PACKET
            at += length
        self._skip, self._rest = max(at - len(data), 0), data[at:]
        now = time.monotonic()
        if sys.stderr.isatty() and now - self._told >= TELL_SECONDS:
            self._told = now
            click.echo(f"\r{self}", err=True, nl=False)

    def end(self) -> None:
        """Say how much it was."""
        click.echo(f"\r{self}" if sys.stderr.isatty() else str(self), err=True)

    def __str__(self) -> str:
        seconds = time.monotonic() - self._begun
        lost = f"; {self._lost} are missing: they were written over before they were read" if self._lost else ""
        return f"{self._packets} packets, {self._bytes} bytes in {seconds:.0f} s{lost}"
