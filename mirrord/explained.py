"""Which rule of a filter takes each of some packets, and why not the rules before it.

It asks the same function that defines the meaning of a filter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mirrord.dataplane.filter.rules import Rule, Selection, decide
from mirrord.dataplane.frame.headers import Headers, parse
from mirrord.words import frame, why

UNMATCHED = "unmatched"

Packet = tuple[bytes, int, bool | None]
"""An Ethernet frame, its length before it was cut, and whether it is egress, where that is known."""


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

    def as_json(self, most: int | None = None) -> dict[str, Any]:
        """Of the rules before it the last `most`, or all."""
        return {
            "packet": self.number,
            "direction": self.direction,
            "frame": frame(self.headers),
            "rule": self.rule and self.rule.priority,
            "action": self.action,
            "passed_over": [
                {"rule": rule.priority, **why(rule, self.headers, egress=self.egress)}
                for rule in (self.before if most is None else self.before[-most:])
            ],
        }


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


def explained(
    read: Iterable[Packet], rules: tuple[Rule, ...], totals: Totals, *, undirected: bool
) -> Iterator[Explained]:
    """What is decided about each packet, counted. `undirected`: whether those without a direction count as egress."""
    selection, place = Selection(rules=rules), {rule.priority: at for at, rule in enumerate(rules)}
    for number, (data, length, known) in enumerate(read, 1):
        egress = undirected if known is None else known
        headers = parse(data)._replace(length=length)
        rule = decide(selection, headers, egress=egress).rule
        totals.count(rule, undirected=known is None)
        yield Explained(number, egress, headers, rule, rules if rule is None else rules[: place[rule.priority]])
