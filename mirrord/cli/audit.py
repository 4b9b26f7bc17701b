"""The audit log: who did what, when, with what result."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from rich.console import Console

from mirrord.cli import complete
from mirrord.cli.arguments import read_by
from mirrord.cli.asker import Asker
from mirrord.cli.tables import coloured, local_time, row, table
from mirrord.values import unexpected

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str) -> str:
    """RFC 3339 in UTC of some time ago (90s, 15m, 1h, 2d, 1w) or of a time, without a zone this machine's."""
    try:
        ago = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
        if ago:
            time = datetime.now(UTC) - timedelta(**{UNITS[ago[2]]: int(ago[1])})
        else:
            time = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        expected = "how long ago (90s, 15m, 1h, 2d, 1w) or a time such as 2026-01-31T08:00:00Z"
        raise unexpected(expected, text) from error
    return time.isoformat().replace("+00:00", "Z")


@click.command()
@click.option("--mirror", help="Only what concerns this mirror.", shell_complete=complete.mirrors)
@click.option(
    "--since",
    metavar="1h|TIME",
    callback=read_by(moment),
    help="Only from then on: how long ago (1h, 2d), or an RFC 3339 time.",
)
@click.pass_obj
def audit(ask: Asker, mirror: str | None, since: str | None) -> None:
    """Show who changed what, when, with what result; refusals too. The latest is last."""
    ask(lambda client: client.audit(mirror, since), _show)


def _show(answer: Any, console: Console) -> None:
    shown = table("TIME", "USER", "OPERATION", "KIND", "OBJECT", "RESULT", "MESSAGE")
    for one in answer:
        who = one["user"] or f"uid {one['uid']}"
        time = local_time(_read(one["time"]))
        result = coloured(one["result"])
        name = f"{one['mirror']}/{one['object']}" if one["kind"] == "session" else one["object"]
        row(shown, time, who, one["operation"], one["kind"], name, result, one["message"] or "")
    console.print(shown)


def _read(time: str | float) -> datetime:
    return datetime.fromisoformat(time) if isinstance(time, str) else datetime.fromtimestamp(time, UTC)
