"""Which rule of a filter takes each packet of a capture file, and why not the rules before it.

It asks the same function that defines the meaning of a filter.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mirrord.cli.asker import Asker
from mirrord.cli.pcap import CaptureFileError, Packet, packets
from mirrord.cli.screen import Screen
from mirrord.cli.tables import Table, whole
from mirrord.control.configuration import config
from mirrord.control.planning.selection import in_order
from mirrord.dataplane.filter.rules import Rule
from mirrord.errors import ConfigError, nearest
from mirrord.explained import UNMATCHED, Explained, Totals, action, explained
from mirrord.model import Filter
from mirrord.words import frame, why

SHOWN_BEFORE = 10  # rules that did not match, in text; JSON has them all


def explain(ask: Asker, filter_: str, file: Path, path: str | None, direction: str) -> None:
    """Print what becomes of each packet of a file, by the daemon's filter or that of a configuration file."""
    written = ask.answer(lambda client: client.filter(filter_)) if path is None else _from_file(filter_, path)
    keys = {key: value for key, value in written.items() if key in Filter.model_fields}
    rules = in_order(Filter.model_validate(keys))
    read = ((packet.data, packet.length, packet.egress) for packet in _packets(file))
    told = explained(read, rules, totals := Totals(rules), undirected=direction == "egress")
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


def _line(one: Explained) -> str:
    """One line, with the reasons of the rules just before the decision."""
    decided = f"rule {one.rule.priority} {one.action}s" if one.rule else UNMATCHED
    line = f"{one.number:>6} {one.direction:<7} {decided:<18} {frame(one.headers)}"
    if len(one.before) > SHOWN_BEFORE:
        line += f"; {len(one.before) - SHOWN_BEFORE} rules before"
    for rule in one.before[-SHOWN_BEFORE:]:
        reason = why(rule, one.headers, egress=one.egress)
        line += f"; rule {rule.priority}: {reason['field']} is {reason['found']}, not {reason['wanted']}"
    return line


def _print(told: Iterator[Explained], rules: tuple[Rule, ...], totals: Totals, direction: str) -> None:
    """A line for each packet, as it is read; then the totals, of what could be read."""
    try:
        for one in told:
            click.echo(_line(one))
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
