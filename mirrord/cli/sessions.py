"""Sessions of a mirror: add, set, rename, enable, disable, delete. The options are the keys of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mirrord.cli import complete
from mirrord.cli.arguments import PAIRS, check, check_patch, given, name, pairs, read_by, source
from mirrord.cli.asker import Asker
from mirrord.cli.change import mirror_argument
from mirrord.cli.group import Group, changes
from mirrord.cli.vocabulary import HELP, REQUIRED, SESSION, TABLES

Command = Callable[..., None]

METAVARS = {
    "description": "TEXT",
    "filter": "NAME",
    "pause_above": "N%",
    "rate_limit": "RATE",
    "recorder": "SIZE",
    "ring_size": "SIZE",
    "snaplen": "N|headers|headers+N",
}
FLAG = ("true", "false")
SIDES = "source", "destination"

session_argument = click.argument("session", shell_complete=complete.sessions)


def _options(*, complete_one: bool) -> Callable[[Command], Command]:
    """An option for each key of a session, in the model's order; for a complete one, those that it needs are needed."""

    def decorate(command: Command) -> Command:
        for key, words in reversed(SESSION.items()):
            if key in ("name", "enabled"):
                continue
            required = complete_one and key in REQUIRED
            settings: dict[str, Any] = {"help": HELP[key], "required": required}
            option = f"--{key.replace('_', '-')}"
            if key == "source":
                settings |= {
                    "metavar": f"{PAIRS}|DEVICE", "callback": read_by(source), "shell_complete": complete.source
                }  # fmt: skip
            elif key in TABLES:
                settings |= {"metavar": PAIRS, "callback": read_by(pairs), "shell_complete": complete.table(key)}
            elif key == "destination":
                settings |= {"metavar": PAIRS, "callback": read_by(pairs), "shell_complete": complete.destination}
            elif words == FLAG:
                settings |= {"is_flag": True, "default": None}
                option = option if complete_one else f"{option}/--no-{key.replace('_', '-')}"
            elif words:
                settings |= {"metavar": "|".join(words), "shell_complete": complete.choices(key)}
            else:
                settings["metavar"] = METAVARS.get(key, "N")
                settings["shell_complete"] = complete.filters if key == "filter" else None
            command = click.option(option, key, **settings)(command)
        return command

    return decorate


@click.group("session", cls=Group)
def session() -> None:
    """Add sessions to a mirror, change and delete them."""


@session.command()
@mirror_argument
@click.argument("name", callback=read_by(name))
@_options(complete_one=True)
@changes
@click.pass_obj
def add(ask: Asker, /, mirror: str, name: str, **options: Any) -> None:
    """Add a session to a mirror.

    Keys of --source and --destination are as in the TOML; a key given again makes a list.

    \b
    mirrorctl session add core vm2 --source tap-vm2 --destination type=vxlan,remote=192.0.2.7,vni=1
    mirrorctl session add core vm3 --source type=device,device=tap-vm3,device=tap-vm4,perspective=guest \\
        --direction ingress --destination type=device,device=em02
    """  # noqa: D301 (click's \b keeps lines as they are)
    written = check("Session", {"name": name, **given(**options)})
    ask.change(lambda client: client.add_session(mirror, written), f"{mirror}/{name}: added")


@session.command("set")
@mirror_argument
@session_argument
@_options(complete_one=False)
@click.option(
    "--unset",
    metavar="KEY",
    multiple=True,
    help="Set a key back to its default. May be given again.",
    shell_complete=lambda _, __, begun: [key for key in SESSION if key not in REQUIRED and key.startswith(begun)],
)
@changes
@click.pass_obj
def set_(ask: Asker, /, mirror: str, session: str, unset: tuple[str, ...], **options: Any) -> None:
    """Change a session; what is not named stays as it is.

    It counts on. With the same source and destination it runs on, too, and loses no frame. Of a source or a destination
    of the same type, only the keys that are given are changed.

    \b
    mirrorctl session set core vm2 --filter web_in --snaplen 128
    mirrorctl session set core vm2 --destination vni=7
    mirrorctl session set core vm2 --unset filter
    """  # noqa: D301 (click's \b keeps lines as they are)
    changed = given(**options)
    for key in unset:
        if key not in SESSION or key in REQUIRED:
            raise click.BadParameter(f"expected a key with a default, not {key!r}", param_hint="--unset")
        if key in changed:
            raise click.BadParameter(f"{key} is set as well", param_hint="--unset")
    if not (changed or unset):
        raise click.UsageError("nothing to set: name a key, as --filter or --destination; --unset KEY for its default")
    there = ask.answer(lambda client: client.mirror(mirror))["sessions"]
    before: dict[str, Any] = next((one for one in there if one["name"] == session), {})
    changed |= {side: _end(before.get(side, {}), changed[side]) for side in SIDES if side in changed}
    body = {**changed, **dict.fromkeys(unset)}
    if before:  # else the daemon tells the names that there are
        check_patch("Session", before, body)
    ask.change(lambda client: client.change_session(mirror, session, body), f"{mirror}/{session}: set")


def _end(before: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """The merge patch (RFC 7396) for a source or destination: with another type, none of the old keys stays."""
    same = "type" not in changed or before.get("type") == changed["type"]
    return changed if same else {**dict.fromkeys(before), **changed}


@session.command()
@mirror_argument
@session_argument
@click.argument("new", metavar="NEW", callback=read_by(name))
@changes
@click.pass_obj
def rename(ask: Asker, mirror: str, session: str, new: str) -> None:
    """Rename a session. It runs on, and counts on."""
    done = f"{mirror}/{session}: renamed to {new}"
    ask.change(lambda client: client.change_session(mirror, session, {"name": new}), done)


@session.command()
@mirror_argument
@session_argument
@changes
@click.pass_obj
def enable(ask: Asker, mirror: str, session: str) -> None:
    """Let a session run, where its mirror is enabled."""
    ask.change(lambda client: client.enable_session(mirror, session), f"{mirror}/{session}: enabled")


@session.command()
@mirror_argument
@session_argument
@changes
@click.pass_obj
def disable(ask: Asker, mirror: str, session: str) -> None:
    """Stop a session; it stays configured, and the mirror's others run on."""
    ask.change(lambda client: client.disable_session(mirror, session), f"{mirror}/{session}: disabled")


@session.command()
@mirror_argument
@session_argument
@changes
@click.pass_obj
def delete(ask: Asker, mirror: str, session: str) -> None:
    """Delete a session of a mirror."""
    ask.deleted(lambda client: client.delete_session(mirror, session), f"{mirror}/{session}")
