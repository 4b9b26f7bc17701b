"""capture: a live pcapng of what a session mirrors, to a file or down a pipe."""

from __future__ import annotations

import contextlib
import signal
import struct
import sys
import time
from pathlib import Path
from typing import BinaryIO

import click

from mirrord.cli import complete
from mirrord.cli.asker import Asker
from mirrord.client import AnsweredError, Client, UnreachableError
from mirrord.errors import nearest

PACKET = 6  # draft-ietf-opsawg-pcapng 4.3
BLOCK = struct.Struct("<II")  # type and length
TELL_SECONDS = 1.0


@click.command()
@click.argument("session", metavar="[MIRROR/]SESSION", shell_complete=complete.captured)
@click.option(
    "-w", "output", metavar="FILE|-", default="-", show_default=True, help="Where to write; -: standard output."
)
@click.option("--source", metavar="DEVICE", help="Which source device, where the session has several.")
@click.pass_obj
def capture(ask: Asker, session: str, output: str, source: str | None) -> None:
    """Write what a session mirrors, live, as pcapng; the session does not notice.

    Its mirror need not be named where no other has a session of that name. Ctrl-C, SIGINT or SIGTERM ends it.

    Into Wireshark: mirrorctl capture web/vm2 -w - | wireshark -k -i -
    """
    mirror, slash, name = session.partition("/")
    if not slash:
        mirror, name = _mirror_of(ask, session), session
    if output == "-" and sys.stdout.isatty():
        raise click.BadParameter("standard output is a terminal: name a file, or pipe it on", param_hint="-w")
    try:
        with contextlib.nullcontext(sys.stdout.buffer) if output == "-" else Path(output).open("wb") as file:
            _copy(ask.client(), (mirror, name, source), file)
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


class _EndedError(Exception):
    """A signal has come."""


def _end(*_: object) -> None:
    raise _EndedError


def _copy(client: Client, session: tuple[str, str, str | None], file: BinaryIO) -> None:
    progress, refused = Progress(), False
    # A script's shell has what it begins beside itself ignore the first.
    before = {number: signal.signal(number, _end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for chunk in client.capture(*session):
            file.write(chunk)
            file.flush()
            progress.add(chunk)
    except _EndedError:
        pass
    except AnsweredError:
        refused = True
        raise
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # the end is on its way
        if not refused:
            progress.end()
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """A line on the terminal that says how much has come. None where standard error is no terminal, but at the end."""

    def __init__(self) -> None:
        self._packets = self._bytes = 0
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
        return f"{self._packets} packets, {self._bytes} bytes in {seconds:.0f} s"
