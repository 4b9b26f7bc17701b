"""Which rule of a filter takes each packet of a capture file, and why not the rules before it.

It asks the same function that defines the meaning of a filter.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from mirrord.cli.asker import Asker
from mirrord.cli.pcap import CaptureFileError, Packet, packets
from mirrord.cli.screen import Screen
from mirrord.cli.tables import Table, whole
from mirrord.cli.words import frame, why
from mirrord.control.configuration import config
from mirrord.control.planning.selection import in_order
from mirrord.dataplane.filter.rules import Rule, Selection, decide
from mirrord.dataplane.frame.headers import Headers, parse
from mirrord.errors import ConfigError, nearest
from mirrord.model import Filter

SHOWN_BEFORE = 10  # rules that did not match, in text; JSON has them all
UNMATCHED = "unmatched"


class Explained(NamedTuple):
    """What is decided about one packet, and by which rule; `before` are the rules that did not match."""

    number: int
    egress: bool
    headers: Headers
    rule: Rule | None
    before: tuple[Rule, ...]

    @property
    def direction(self) -> str:
        return "egress" if self.egress else "ingress"

    @property
    def action(self) -> str:
        return UNMATCHED if self.rule is None else action(self.rule)

    def as_json(self) -> dict[str, Any]:
        return {
            "packet": self.number,
            "direction": self.direction,
            "frame": frame(self.headers),
            "rule": self.rule and self.rule.priority,
            "action": self.action,
            "passed_over": [
                {"rule": rule.priority, **why(rule, self.headers, egress=self.egress)} for rule in self.before
            ],
        }

    def __str__(self) -> str:
        """One line, with the reasons of the rules just before the decision."""
        decided = f"rule {self.rule.priority} {self.action}s" if self.rule else UNMATCHED
        line = f"{self.number:>6} {self.direction:<7} {decided:<18} {frame(self.headers)}"
        if len(self.before) > SHOWN_BEFORE:
            line += f"; {len(self.before) - SHOWN_BEFORE} rules before"
        for rule in self.before[-SHOWN_BEFORE:]:
            reason = why(rule, self.headers, egress=self.egress)
            line += f"; rule {rule.priority}: {reason['field']} is {reason['found']}, not {reason['wanted']}"
        return line


class Totals:
    """What became of all packets; it grows with them."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = {rule.priority: 0 for rule in rules}
        self.actions = {"accept": 0, "reject": 0, UNMATCHED: 0}
        self.undirected = 0  # the file does not tell their direction

    @property
    def packets(self) -> int:
        return sum(self.actions.values())

    def count(self, rule: Rule | None, *, undirected: bool) -> None:
        self.actions[UNMATCHED if rule is None else action(rule)] += 1
        self.undirected += undirected
        if rule is not None:
            self.rules[rule.priority] += 1

    def as_json(self) -> dict[str, Any]:
        return {
            "packets": self.packets,
            "accepted": self.actions["accept"],
            "rejected": self.actions["reject"],
            "unmatched": self.actions[UNMATCHED],
            "undirected": self.undirected,
            "rules": self.rules,
        }


def action(rule: Rule) -> str:
    """What the rule does with what it matches."""
    return "accept" if rule.accept else "reject"


def explain(ask: Asker, filter_: str, file: Path, path: str | None, direction: str) -> None:
    """Print what becomes of each packet of a file, by the daemon's filter or that of a configuration file."""
    written = ask.answer(lambda client: client.filter(filter_)) if path is None else _from_file(filter_, path)
    keys = {key: value for key, value in written.items() if key in Filter.model_fields}
    rules = in_order(Filter.model_validate(keys))
    told = _explained(_packets(file), rules, totals := Totals(rules), undirected=direction == "egress")
    if ask.as_json:
        each = [one.as_json() for one in told]
        ask.show({"packets": each, "totals": totals.as_json()}, lambda *_: None)
    else:
        _print(told, rules, totals, direction)


def _from_file(name: str, path: str) -> dict[str, Any]:
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
) -> Iterator[Explained]:
    """What is decided about each packet, counted. `undirected`: whether those without a direction count as egress."""
    selection, place = Selection(rules=rules), {rule.priority: at for at, rule in enumerate(rules)}
    for number, packet in enumerate(read, 1):
        egress = undirected if packet.egress is None else packet.egress
        headers = parse(packet.data)._replace(length=packet.length)
        rule = decide(selection, headers, egress=egress).rule
        totals.count(rule, undirected=packet.egress is None)
        yield Explained(number, egress, headers, rule, rules if rule is None else rules[: place[rule.priority]])


def _print(told: Iterator[Explained], rules: tuple[Rule, ...], totals: Totals, direction: str) -> None:
    """A line for each packet, as it is read; then the totals, of what could be read."""
    try:
        for one in told:
            click.echo(str(one))
    except click.ClickException:
        if totals.packets:
            _print_totals(rules, totals, direction)
        raise
    _print_totals(rules, totals, direction)


def _print_totals(rules: tuple[Rule, ...], totals: Totals, direction: str) -> None:
    accepted, rejected, unmatched = totals.actions.values()
    click.echo(
        f"\n{totals.packets} packets: {accepted} accepted, {rejected} rejected,"
        f" {unmatched} matched by no rule and so not copied"
    )
    if totals.undirected:
        click.echo(f"{totals.undirected} without a direction in the file, taken for {direction} (--direction)")
    shown = Table([whole("RULE"), whole("ACTION"), whole("PACKETS")])
    for rule in rules:
        shown.row(rule.priority, action(rule), totals.rules[rule.priority])
    Screen().table(shown)
