"""The audit log: who did what, when, with what result."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import click

from mirrord import periods
from mirrord.cli import complete
from mirrord.cli.arguments import read_by
from mirrord.cli.asker import Asker
from mirrord.cli.screen import Screen
from mirrord.cli.tables import Table, coloured, local_time, name, whole, words

LOOK_SECONDS = 1.0
ROWS = 1000  # the daemon's own limit, where none is given


def moment(text: str) -> str:
    """RFC 3339 in UTC of some time ago (90s, 15m, 1h, 2d, 1w) or of a time, without a zone this machine's."""
    try:
        if text[-1:] in tuple("smhdw"):
            then = datetime.now(UTC) - periods.parse(text)
        else:
            then = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        expected = f"how long ago ({periods.EXAMPLES}) or a time such as 2026-01-31T08:00:00Z"
        raise ValueError(f"expected {expected}, not {text!r}") from error
    return then.isoformat().replace("+00:00", "Z")


@click.command()
@click.option("--mirror", help="Only what concerns this mirror.", shell_complete=complete.mirrors)
@click.option(
    "--since",
    metavar="1h|TIME",
    callback=read_by(moment),
    help="Only from then on: how long ago (1h, 2d), or an RFC 3339 time.",
)
@click.option(
    "--limit", metavar="N", type=click.IntRange(1, 20_000), help="The latest N rows at most; 1000 if not given."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on; Ctrl-C ends it.")
@click.pass_obj
def audit(ask: Asker, mirror: str | None, since: str | None, limit: int | None, *, follow: bool) -> None:
    """Show who changed what, when, with what result; refusals too. The latest is last.

    With --json and --follow, each row is an object on a line of its own.
    """
    if follow:
        _follow(ask, mirror, since, limit)
    else:
        ask(lambda client: client.audit(mirror, since, limit), _show)


def _follow(ask: Asker, mirror: str | None, since: str | None, limit: int | None) -> None:
    """The rows there are, then each that comes. Rows of the same moment are told apart by what is in them."""
    rows = ask.answer(lambda client: client.audit(mirror, since, limit))
    screen = Screen()
    first = True
    try:
        while True:
            for row in rows if ask.as_json else ():
                click.echo(json.dumps(row))
            if not ask.as_json and (rows or first):
                for line in _table(rows).lines(screen.width)[0 if first else 1 :]:
                    click.echo(line)
            first = False
            if rows:
                since = rows[-1]["time"]
                last = [row for row in rows if row["time"] == since]
            elif since is None:
                since, last = datetime.now(UTC).isoformat(), []
            time.sleep(LOOK_SECONDS)
            found = ask.answer(lambda client: client.audit(mirror, since, ROWS))  # noqa: B023 (asked in this turn)
            rows = [row for row in found if row not in last]
    except KeyboardInterrupt:
        pass


def _show(answer: Any, screen: Screen) -> None:
    screen.table(_table(answer))


def _table(rows: Any) -> Table:
    shown = Table(
        [
            whole("TIME"),
            name("USER"),
            whole("OPERATION"),
            whole("KIND", 2),
            name("OBJECT"),
            whole("RESULT"),
            words("MESSAGE", 1),
        ]
    )
    for one in rows:
        who = one["user"] or f"uid {one['uid']}"
        who += f"@{one['host']}" if "host" in one else ""  # of a cluster
        called = f"{one['mirror']}/{one['object']}" if one["kind"] == "session" else one["object"]
        message = " ".join(one["message"].split())
        when = local_time(datetime.fromisoformat(one["time"]))
        shown.row(when, who, one["operation"], one["kind"], called, coloured(one["result"]), message)
    return shown
