"""Filters: list, show, create, set, delete; and one rule of a filter: add, delete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mirrord.cli import complete
from mirrord.cli.arguments import PAIRS, check, given, name, pairs, read_by
from mirrord.cli.asker import Asker
from mirrord.cli.group import Group, changes
from mirrord.cli.screen import Screen
from mirrord.cli.tables import Table, origin, whole, words, written
from mirrord.cli.tables import name as name_column
from mirrord.client import AnsweredError, Client, Tagged

AGAIN = 10  # how often a change is tried that others come before
NO_MATCH = ("priority", "direction", "action")

Command = Callable[..., None]

filter_argument = click.argument("filter_", metavar="FILTER", shell_complete=complete.filters)


def rules_option(*, required: bool, text: str) -> Callable[[Command], Command]:
    return click.option(
        "--rule",
        "rules",
        metavar=PAIRS,
        callback=read_by(pairs),
        multiple=True,
        required=required,
        shell_complete=complete.rule,
        help=text,
    )


@click.group("filter", cls=Group)
def filter_() -> None:
    """Look at filters, create, change and delete them."""


@filter_.command("list")
@click.pass_obj
def list_(ask: Asker) -> None:
    """List the filters."""

    def show(answer: Any, screen: Screen) -> None:
        shown = Table([name_column("FILTER"), whole("RULES"), name_column("ORIGIN", 1), words("DESCRIPTION", 2)])
        for each in answer:
            shown.row(each["name"], len(each["rules"]), origin(each), each["description"])
        screen.table(shown)

    ask(lambda client: client.filters(), show)


@filter_.command()
@filter_argument
@click.pass_obj
def show(ask: Asker, filter_: str) -> None:
    """Show a filter's rules, in the order in which they are tried."""

    def show(answer: Any, screen: Screen) -> None:
        about = f". {answer['description']}" if answer["description"] else ""
        screen.print(f"{answer['name']}, origin {origin(answer)}{about}")
        shown = Table([whole("PRIORITY"), whole("DIRECTION", 1), whole("ACTION"), words("MATCH")])
        for rule in sorted(answer["rules"], key=lambda rule: int(rule["priority"])):
            match = {key: value for key, value in rule.items() if key not in NO_MATCH}
            shown.row(rule["priority"], rule["direction"], rule["action"], written(match) or "every frame")
        screen.table(shown)

    ask(lambda client: client.filter(filter_), show)


@filter_.command()
@click.argument("filter_", metavar="FILTER", callback=read_by(name))
@click.option("--description", help="What it is for: one line.")
@rules_option(required=True, text="A rule. May be given again.")
@changes
@click.pass_obj
def create(ask: Asker, filter_: str, description: str | None, rules: list[dict[str, Any]]) -> None:
    """Create a filter. Rules are tried in ascending priority; the first match decides; no match, no copy.

    Keys are as in the TOML; a key given again makes a list.

    \b
    mirrorctl filter create web_in \\
        --rule priority=1,action=reject,source=192.0.2.0/24,source=198.51.100.0/24 \\
        --rule priority=2,action=accept,direction=ingress,protocol=tcp,destination_ports=80,destination_ports=443
    """  # noqa: D301 (click's \b keeps lines as they are)
    made = check("Filter", given(description=description, rules=rules))
    ask.change(lambda client: client.create_filter(filter_, made), f"{filter_}: created")


@filter_.command("set")
@filter_argument
@click.option("--description", help="A new description.")
@rules_option(required=False, text="A rule, in place of all that there are. May be given again.")
@changes
@click.pass_obj
def set_(ask: Asker, filter_: str, description: str | None, rules: list[dict[str, Any]]) -> None:
    """Describe a filter, or give it other rules. Sessions that have it run on, and count on."""
    if description is None and not rules:
        raise click.UsageError("nothing to set: give --description or --rule")
    changed = given(description=description, rules=rules or None)
    checked = check("Filter", {"rules": [{"priority": 1, "action": "accept"}], **changed})
    body = {key: checked[key] for key in changed}
    ask.change(lambda client: client.change_filter(filter_, body), f"{filter_}: set")


@filter_.command()
@filter_argument
@changes
@click.pass_obj
def delete(ask: Asker, filter_: str) -> None:
    """Delete a filter that no session has."""
    ask.deleted(lambda client: client.delete_filter(filter_), filter_)


@filter_.group("rule", cls=Group)
def rule() -> None:
    """Add a rule to a filter, or delete one. Sessions that have it run on, and count on."""


@rule.command("add")
@filter_argument
@click.argument("rule", metavar=PAIRS, callback=read_by(pairs), shell_complete=complete.rule)
@click.option("--replace", is_flag=True, help="In place of the rule of this priority, if there is one.")
@changes
@click.pass_obj
def add(ask: Asker, filter_: str, rule: dict[str, Any], *, replace: bool) -> None:
    """Add a rule to a filter, at the place that its priority gives it.

    \b
    mirrorctl filter rule add web_in priority=3,action=accept,protocol=tcp,destination_ports=8080
    mirrorctl filter rule add web_in --replace priority=3,action=accept,protocol=tcp,destination_ports=8080-8089
    """  # noqa: D301 (click's \b keeps lines as they are)
    (added,) = check("Filter", {"rules": [rule]})["rules"]

    def edit(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
        others = [one for one in rules if one["priority"] != added["priority"]]
        if len(others) < len(rules) and not replace:
            raise click.UsageError(
                f"filter {filter_} has a rule of priority {added['priority']}: --replace puts this one in its place"
            )
        return [*others, added]

    _edit(ask, filter_, edit, f"{filter_}: rule {added['priority']} added")


@rule.command("delete")
@filter_argument
@click.argument("priority", type=int, shell_complete=complete.rules)
@changes
@click.pass_obj
def delete_rule(ask: Asker, filter_: str, priority: int) -> None:
    """Delete the rule of this priority from a filter."""

    def edit(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
        others = [one for one in rules if one["priority"] != priority]
        if len(others) == len(rules):
            known = ", ".join(str(one["priority"]) for one in rules)
            ask.fail(
                AnsweredError("not_found", f"filter {filter_} has no rule of priority {priority}, but {known}", "")
            )
        return others

    _edit(ask, filter_, edit, f"{filter_}: rule {priority} deleted")


def _edit(ask: Asker, filter_: str, edit: Any, done: str) -> None:
    """Change a filter's rules as they are; where somebody else has changed it meanwhile, as they are then."""

    def change(client: Client) -> Any:
        for left in reversed(range(AGAIN)):
            there: Tagged = client.filter(filter_)
            set_alone = [{key: value for key, value in one.items() if value is not None} for one in there["rules"]]
            rules = sorted(edit(set_alone), key=lambda one: int(one["priority"]))
            try:
                return client.change_filter(filter_, {"rules": rules}, there.tag)
            except AnsweredError as error:
                if error.code != "stale" or not left:
                    raise
        raise AssertionError

    ask.change(change, done)
