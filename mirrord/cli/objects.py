"""apply and export: run-time objects from and to a file of the configuration's own vocabulary."""

from __future__ import annotations

import sys
from datetime import date, time
from pathlib import Path
from typing import Any

import click

from mirrord.cli.asker import Asker
from mirrord.cli.group import changes
from mirrord.cli.screen import Screen
from mirrord.cli.tables import Cell, Table, name, whole
from mirrord.client import AnsweredError, Client

COLOURS = {"create": "green", "change": "yellow", "delete": "red"}


@click.command()
@click.option(
    "-f",
    "--file",
    "path",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False, allow_dash=True),
    help="TOML with [mirrors], [filters] and [flow_networks]; -: standard input.",
)
@click.option("--prune", is_flag=True, help="Delete the run-time objects that the file does not name, too.")
@changes
@click.pass_obj
def apply(ask: Asker, path: str, *, prune: bool) -> None:
    """Make the run-time objects that a file names as the file has them: all of them, or if one is refused, none.

    Objects that are not there are created, others changed; sessions that do not change run on. What the file does not
    name stays as it is, unless --prune is given. Objects of the daemon's own files are read-only.

    \b
    mirrorctl export > mirrors.toml
    mirrorctl apply -f mirrors.toml --dry-run
    """  # noqa: D301 (click's \b keeps lines as they are)
    data = _bytes(path)
    objects = _read(path, data)

    def question(client: Client) -> Any:
        try:
            return client.apply(objects, prune=prune)
        except AnsweredError as error:
            if not error.path:  # it is not about what the file says
                raise
            raise _located(error, path, data) from error

    def show(answer: Any, screen: Screen) -> None:
        shown = Table([whole("OPERATION"), whole("KIND"), name("NAME")])
        for one in answer["objects"]:
            operation = one["operation"]
            shown.row(Cell(operation, COLOURS.get(operation, "")), one["kind"].replace("_", " "), one["name"])
        screen.table(shown)
        if ask.dry_run:
            screen.print("dry run: nothing was changed")

    ask.apply(question, show)


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also what the daemon's files define.")
@click.pass_obj
def export(ask: Asker, *, everything: bool) -> None:
    """Print what was made at run time, as TOML that `apply` takes; keys that are as by default are left out."""
    sections = ask.answer(lambda client: _sections(client, everything=everything))
    ask.show(sections, lambda answer, _: click.echo(_toml(answer), nl=False))


def _sections(client: Client, *, everything: bool) -> dict[str, dict[str, Any]]:
    """Every object by section and name, without what only the daemon says, and what it cannot read."""
    found = {"flow_networks": client.flow_networks(), "filters": client.filters(), "mirrors": client.mirrors()}
    return {
        section: {
            one["name"]: _kept(one)
            for one in objects
            if (everything or "state" in one["origin"]) and not _left_out(one, section)
        }
        for section, objects in found.items()
    }


def _left_out(one: dict[str, Any], section: str) -> bool:
    """Whether the agent cannot read an object of a cluster; told, as are a mirror's sessions that are taken out."""
    sessions = one.get("sessions", [])
    unreadable = [each for each in sessions if each.get("unreadable")]
    for each in [one] if one.get("unreadable") else unreadable:
        what = f"{section}.{one['name']}" + ("" if each is one else f".sessions[{each['name']}]")
        click.echo(f"mirrorctl: {what}: left out, since the agent cannot read it", err=True)
    if unreadable:
        one["sessions"] = [each for each in sessions if each not in unreadable]
    return bool(one.get("unreadable"))


def _kept(one: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in one.items() if key not in ("name", "origin", "expired", "in_use")}
    for session in kept.get("sessions", ()):
        session.pop("running", None)
    return kept


def _toml(sections: dict[str, dict[str, Any]]) -> str:
    from mirrord.cli.toml import written  # noqa: PLC0415 (it takes the models)

    return written(sections)


def _bytes(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error


def _located(error: AnsweredError, path: str, data: bytes) -> AnsweredError:
    """The refusal with the file and line of each problem, as far as they are to be known."""
    from mirrord.model.lines import line_of, places  # noqa: PLC0415 (it takes the models)

    lines, found = places(data.decode("utf-8-sig")), []
    for problem in str(error).split("\n"):
        line = line_of(lines, problem.partition(": ")[0])
        found.append(f"{path}: {problem}" + (f" (line {line})" if line else ""))
    return AnsweredError(error.code, "\n".join(found), error.path)


def _as_json(value: Any) -> Any:
    """With TOML's own times, which JSON does not have, as text."""
    if isinstance(value, dict):
        return {key: _as_json(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_as_json(part) for part in value]
    return value.isoformat() if isinstance(value, date | time) else value


def _read(path: str, data: bytes) -> dict[str, Any]:
    """What the file says, by section and name; bad usage where it is no TOML."""
    from mirrord.control.configuration.toml import parsed  # noqa: PLC0415 (nobody else needs it)

    try:
        table: dict[str, Any] = _as_json(parsed(data))
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from error
    if "daemon" in table:
        raise click.UsageError(
            f"{path}: daemon: is for the daemon's own files: `apply` makes mirrors, filters and flow networks"
        )
    return table
