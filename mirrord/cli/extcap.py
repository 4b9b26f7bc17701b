"""`mirrord-extcap`: sessions as interfaces of Wireshark, which runs it several times before a capture begins.

Each session is an interface by its name; where it has several source devices, each of these is one. The packets are
what `mirrorctl capture` writes, on this host or, over ssh, on another one. A capture filter is applied by tcpdump.

https://www.wireshark.org/docs/wsdg_html_chunked/ChCaptureExtcap.html, extcap(4)
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import click

from mirrord import __version__
from mirrord.client import SOCKET, AnsweredError, Client, UnreachableError

PREFIX = "mirrord:"
ELSEWHERE = "mirrord-ssh"  # the interface whose options say which host and session it is
NAME = "mirrord-extcap"

FOLDERS = ("~/.local/lib/wireshark/extcap", "~/.config/wireshark/extcap")
"""Where Wireshark looks for a user's own programs: from 4.2 on, and before."""

SYSTEM = "/usr/lib/{triplet}/wireshark/extcap"


class Interface(NamedTuple):
    """What Wireshark is told of: by what it is chosen, and what people read."""

    value: str
    display: str


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--extcap-interfaces", "interfaces", is_flag=True, help="List the interfaces.")
@click.option("--extcap-version", "_version", help="Wireshark's version.")
@click.option("--extcap-interface", "interface", default="", help="The interface in question.")
@click.option("--extcap-dlts", "dlts", is_flag=True, help="Tell its link types.")
@click.option("--extcap-config", "config", is_flag=True, help="Tell its options.")
@click.option("--extcap-capture-filter", "filter_", default="", help="A capture filter (pcap-filter(7)).")
@click.option("--capture", is_flag=True, help="Capture.")
@click.option("--fifo", type=click.Path(), help="Where packets go.")
@click.option("--socket", default="", help="The daemon's control socket.")
@click.option("--host", default="", help="The host to capture on, as ssh takes it; empty: this one.")
@click.option("--session", default="", help="MIRROR/SESSION, on another host.")
@click.option("--source", default="", help="Which source device, where the session has several.")
def main(
    interface: str, filter_: str, fifo: str | None, socket: str, host: str, session: str, source: str,
    *, interfaces: bool, _version: str | None, dlts: bool, config: bool, capture: bool,
) -> None:  # fmt: skip
    """Sessions of mirrord as interfaces of Wireshark; `mirrorctl extcap install` puts this where it looks."""
    path = socket or os.environ.get("MIRRORD_SOCKET", "") or SOCKET
    if interfaces:
        click.echo(f"extcap {{version={__version__}}}{{display=mirrord}}")
        for one in _interfaces(path):
            click.echo(f"interface {{value={one.value}}}{{display={one.display}}}")
    elif not interface:
        raise click.UsageError("Wireshark runs this program; to capture by hand use `mirrorctl capture`")
    elif dlts:
        click.echo(_link_type(interface, path))
    elif config:
        for line in _options(interface):
            click.echo(line)
    elif capture:
        if fifo is None:
            raise click.UsageError("--capture needs --fifo")
        here = interface.startswith(PREFIX)
        sys.exit(_capture(_command(interface, path if here else socket, host, session, source), fifo, filter_))


def _interfaces(path: str) -> list[Interface]:
    """The sessions that run here; without a daemon, the one for other hosts alone."""
    rows = _sessions(path)
    names = [f"{row['mirror']}/{row['session']}" for row in rows]
    found = []
    for name, row in zip(names, rows, strict=True):
        device = f"@{row['source']}" if names.count(name) > 1 else ""
        found.append(Interface(f"{PREFIX}{name}{device}", f"mirrord: {name}{' on ' + row['source'] if device else ''}"))
    return [*found, Interface(ELSEWHERE, "mirrord: a session of another host")]


def _sessions(path: str) -> list[dict[str, str]]:
    """As the daemon here tells of them; none without a daemon."""
    with suppress(UnreachableError, AnsweredError):
        return list(Client(path, seconds=5).status()["sessions"])
    return []


def _link_type(interface: str, path: str) -> str:
    """The link type of a session's packets, https://www.tcpdump.org/linktypes.html. The packets themselves tell it."""
    name, _, source = interface.removeprefix(PREFIX).partition("@")
    for row in _sessions(path):
        if f"{row['mirror']}/{row['session']}" == name and source in ("", row["source"]) and row.get("link") == "ip":
            return "dlt {number=101}{name=RAW}{display=IP packets}"
    return "dlt {number=1}{name=EN10MB}{display=Ethernet}"


def _options(interface: str) -> Iterator[str]:
    """The options that Wireshark shows, in the order of their numbers."""
    if interface == ELSEWHERE:
        yield "arg {number=0}{call=--host}{display=Host}{type=string}{required=true}{tooltip=As ssh takes it}"
        yield "arg {number=1}{call=--session}{display=Session}{type=string}{required=true}{tooltip=MIRROR/SESSION}"
        yield "arg {number=2}{call=--source}{display=Source device}{type=string}{tooltip=Where it has several}"
        yield "arg {number=3}{call=--socket}{display=Control socket}{type=string}{tooltip=On that host}"
    else:
        yield "arg {number=0}{call=--socket}{display=Control socket}{type=string}{tooltip=Empty: as configured}"


def _command(interface: str, socket: str, host: str, session: str, source: str) -> list[str]:
    """What writes the packets to its standard output."""
    if interface.startswith(PREFIX):
        session, _, source = interface.removeprefix(PREFIX).partition("@")
    elif not (host and session):
        raise click.UsageError("a session of another host needs --host and --session")
    asked = ["--socket", socket] if socket else []
    wanted = ["capture", session, "-w", "-", *(["--source", source] if source else [])]
    if host:
        return ["ssh", "-o", "BatchMode=yes", "--", host, shlex.join(["mirrorctl", *asked, *wanted])]
    return [sys.executable, "-m", "mirrord.cli", *asked, *wanted]


def _capture(command: list[str], fifo: str, filter_: str) -> int:
    """Run the command with its output to the fifo until Wireshark closes that, or ends this. Its exit status."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with Path(fifo).open("wb") as packets:
        if not filter_:
            return _run([command], packets.fileno(), environment)
        if shutil.which("tcpdump") is None:
            raise click.UsageError("a capture filter takes tcpdump, which is not installed")
        return _run([command, ["tcpdump", "-U", "-r", "-", "-w", "-", filter_]], packets.fileno(), environment)


def _run(commands: list[list[str]], output: int, environment: dict[str, str]) -> int:
    """Run a pipeline. What it says is shown when it failed alone: Wireshark takes every word for an error."""
    said = tempfile.TemporaryFile()  # noqa: SIM115 (the process ends with this)
    running: list[subprocess.Popen[bytes]] = []
    for command in commands:
        last = command is commands[-1]
        before = running[-1].stdout if running else subprocess.DEVNULL
        after = output if last else subprocess.PIPE
        running.append(subprocess.Popen(command, stdin=before, stdout=after, stderr=said, env=environment))  # noqa: S603
    for one in running[:-1]:
        assert one.stdout is not None  # a pipe
        one.stdout.close()  # the next one's alone, or this one would never learn that the next is gone

    def end(*_: object) -> None:
        for one in running:
            one.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    status = max(abs(one.wait()) for one in reversed(running))
    if status:
        said.seek(0)
        click.echo(said.read().decode(errors="replace"), err=True, nl=False)
    return status


@click.group()
def extcap() -> None:
    """Have Wireshark list sessions as interfaces."""


@extcap.command()
@click.option("--system", is_flag=True, help="For every user of this host.")
@click.option("--folder", type=click.Path(file_okay=False), help="Into this folder, and no other.")
def install(folder: str | None, *, system: bool) -> None:
    """Put mirrord-extcap where Wireshark looks for such programs.

    The Debian package has done it for every user. Wireshark run as root looks into root's own folder as well.
    """
    for directory in [Path(folder)] if folder else _folders(system=system):
        file = directory / NAME
        try:
            directory.mkdir(parents=True, exist_ok=True)
            file.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m mirrord.cli.extcap "$@"\n')
            file.chmod(0o755)
        except OSError as error:
            raise click.ClickException(f"{file}: {error.strerror}") from error
        click.echo(f"{file}: installed")


def _folders(*, system: bool) -> list[Path]:
    if not system:
        return [Path(one).expanduser() for one in FOLDERS]
    triplet = getattr(sys.implementation, "_multiarch", "") or f"{os.uname().machine}-linux-gnu"
    return [Path(SYSTEM.format(triplet=triplet))]


if __name__ == "__main__":
    main()
