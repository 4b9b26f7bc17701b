"""Filters: list, show, create, delete."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from mirrord.cli import complete
from mirrord.cli.arguments import PAIRS, check, pairs, read_by
from mirrord.cli.asker import Asker, say
from mirrord.cli.group import Group
from mirrord.cli.tables import origin, row, table, written
from mirrord.model import Filter
from mirrord.values import parse_name

filter_argument = click.argument("filter_", metavar="FILTER", shell_complete=complete.filters)


@click.group("filter", cls=Group)
def filter_() -> None:
    """Look at filters, create and delete them."""


@filter_.command("list")
@click.pass_obj
def list_(ask: Asker) -> None:
    """List the filters."""

    def show(answer: Any, console: Console) -> None:
        shown = table("FILTER", "RULES", "ORIGIN")
        for each in answer:
            row(shown, each["name"], len(each["rules"]), origin(each))
        console.print(shown)

    ask(lambda client: client.filters(), show)


@filter_.command()
@filter_argument
@click.pass_obj
def show(ask: Asker, filter_: str) -> None:
    """Show a filter's rules, in the order in which they are tried."""

    def show(answer: Any, console: Console) -> None:
        console.print(f"{answer['name']}, origin {origin(answer)}")
        shown = table("PRIORITY", "DIRECTION", "ACTION", "MATCH")
        for rule in sorted(answer["rules"], key=lambda rule: rule["priority"]):
            match = {key: value for key, value in rule.items() if key not in ("priority", "direction", "action")}
            row(shown, rule["priority"], rule["direction"], rule["action"], written(match) or "every frame")
        console.print(shown)

    ask(lambda client: client.filter(filter_), show)


@filter_.command()
@click.argument("filter_", metavar="FILTER", callback=read_by(parse_name))
@click.option(
    "--rule",
    "rules",
    metavar=PAIRS,
    callback=read_by(pairs),
    multiple=True,
    required=True,
    help="A rule. May be given again.",
)
@click.pass_obj
def create(ask: Asker, filter_: str, rules: list[dict[str, Any]]) -> None:
    """Create a filter. Rules are tried in ascending priority; the first match decides; no match, no copy.

    Keys are as in the TOML; a key given again makes a list.

    \b
    mirrorctl filter create web_in \\
        --rule priority=1,action=reject,source=192.0.2.0/24,source=198.51.100.0/24 \\
        --rule priority=2,action=accept,direction=ingress,protocol=tcp,destination_ports=80,destination_ports=443
    """  # noqa: D301 (click's \b keeps lines as they are)
    table_ = check(Filter, {"rules": rules})
    ask(lambda client: client.create_filter(filter_, table_), say(f"{filter_}: created"))


@filter_.command()
@filter_argument
@click.pass_obj
def delete(ask: Asker, filter_: str) -> None:
    """Delete a filter that no session has."""
    ask.deleted(lambda client: client.delete_filter(filter_), filter_)
