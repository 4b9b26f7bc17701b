"""Which rule of a filter takes each packet of a capture file, and why not the rules before it.

It asks the same function that defines the meaning of a filter.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from mirrord.cli.arguments import check
from mirrord.cli.asker import Asker, console
from mirrord.cli.filters import filter_argument
from mirrord.cli.pcap import CaptureFileError, Packet, packets
from mirrord.cli.tables import row, table
from mirrord.cli.words import frame, why
from mirrord.control.validation import nearest
from mirrord.dataplane.filter import Rule, Selection, decide
from mirrord.dataplane.headers import parse
from mirrord.errors import ConfigError
from mirrord.model import Filter

SHOWN_BEFORE = 10  # rules that did not match, in text; JSON has them all
UNMATCHED = "unmatched"


@dataclass
class Totals:
    """What became of all packets."""

    packets: int = 0
    accepted: int = 0
    rejected: int = 0
    unmatched: int = 0
    undirected: int = 0  # the file does not tell their direction
    rules: Counter[int] = field(default_factory=Counter)


@click.command()
@filter_argument
@click.option(
    "--pcap",
    "file",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="pcap or pcapng; - for stdin.",
)
@click.option("--config", "path", type=click.Path(dir_okay=False), help="Take the filter from here, not the daemon.")
@click.option(
    "--direction",
    type=click.Choice(["ingress", "egress"]),
    default="ingress",
    show_default=True,
    help="Of packets whose direction the file does not tell.",
)
@click.pass_obj
def explain(ask: Asker, filter_: str, file: Path, path: str | None, direction: str) -> None:
    """Tell which rule takes each packet of a capture file, and why the rules before it did not.

    Directions are as the rules name them: those that sessions with this filter see.
    """
    from mirrord.control.selection import in_order  # noqa: PLC0415 (as in _from_file)

    written = ask.answer(lambda client: client.filter(filter_)) if path is None else _from_file(filter_, path)
    keys = {key: value for key, value in written.items() if key in Filter.model_fields}
    rules = in_order(Filter.model_validate(check(Filter, keys)))
    totals = Totals()
    told = _explained(_packets(file), rules, totals, undirected=direction == "egress")
    if ask.as_json:
        each = list(told)
        ask.show({"packets": each, "totals": _totals(rules, totals)}, lambda *_: None)
    else:
        _print(told, rules, totals, direction)


def _from_file(name: str, path: str) -> dict[str, Any]:
    from mirrord.control import config  # noqa: PLC0415 (it brings the daemon's libraries, which cost others 0.2 s)

    try:
        filters = config.load(path).config.filters
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    if name not in filters:
        raise click.UsageError(f"{path}: no such filter: {name}{nearest(name, filters)}")
    return filters[name].model_dump(mode="json")


def _packets(path: Path) -> Iterator[Packet]:
    """Every packet; exit 1 with the reason where the file cannot be read, or no further."""
    try:
        with sys.stdin.buffer if str(path) == "-" else path.open("rb") as file:
            yield from packets(file)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
    except CaptureFileError as error:
        raise click.ClickException(f"{path}: {error}") from error


def _explained(
    read: Iterator[Packet], rules: tuple[Rule, ...], totals: Totals, *, undirected: bool
) -> Iterator[dict[str, Any]]:
    """What is decided about each packet; `totals` grow with it. `undirected`: whether those count as egress."""
    for packet in read:
        egress = undirected if packet.egress is None else packet.egress
        headers = parse(packet.data)
        decision = decide(Selection(rules=rules), headers, egress=egress)
        totals.packets += 1
        totals.undirected += packet.egress is None
        if decision.rule is None:
            totals.unmatched += 1
        else:
            totals.rules[decision.rule.priority] += 1
            totals.accepted += decision.accept
            totals.rejected += not decision.accept
        before = (rule for rule in rules if decision.rule is None or rule.priority < decision.rule.priority)
        yield {
            "packet": totals.packets,
            "direction": "egress" if egress else "ingress",
            "frame": frame(headers),
            "rule": decision.rule and decision.rule.priority,
            "action": UNMATCHED if decision.rule is None else "accept" if decision.accept else "reject",
            "passed_over": [{"rule": rule.priority, **why(rule, headers, egress=egress)} for rule in before],
        }


def _totals(rules: tuple[Rule, ...], totals: Totals) -> dict[str, Any]:
    return {
        "packets": totals.packets,
        "accepted": totals.accepted,
        "rejected": totals.rejected,
        "unmatched": totals.unmatched,
        "undirected": totals.undirected,
        "rules": {rule.priority: totals.rules[rule.priority] for rule in rules},
    }


def _print(told: Iterator[dict[str, Any]], rules: tuple[Rule, ...], totals: Totals, direction: str) -> None:
    """A line for each packet, as it is read; then the totals, of what could be read."""
    try:
        for one in told:
            decided = f"rule {one['rule']} {one['action']}s" if one["rule"] else UNMATCHED
            click.echo(f"{one['packet']:>6} {one['direction']:<7} {decided:<18} {one['frame']}{_reasons(one)}")
    finally:
        click.echo(
            f"\n{totals.packets} packets: {totals.accepted} accepted, {totals.rejected} rejected,"
            f" {totals.unmatched} matched by no rule and so not copied"
        )
        if totals.undirected:
            click.echo(f"{totals.undirected} without a direction in the file, taken for {direction} (--direction)")
        shown = table("RULE", "ACTION", "PACKETS")
        for rule in rules:
            row(shown, rule.priority, "accept" if rule.accept else "reject", totals.rules[rule.priority])
        console().print(shown)


def _reasons(one: dict[str, Any]) -> str:
    """Why the rules before did not match, those just before the decision."""
    before = one["passed_over"]
    told = [f"rule {each['rule']}: {each['field']} is {each['found']}, not {each['wanted']}" for each in before]
    more = [f"{len(told) - SHOWN_BEFORE} rules before"] if len(told) > SHOWN_BEFORE else []
    return "".join(f"; {text}" for text in (*more, *told[-SHOWN_BEFORE:]))
