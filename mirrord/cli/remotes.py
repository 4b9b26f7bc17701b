"""A table of collectors: of sessions that have several, which is up, how fast it is sent to, and why another is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mirrord.cli.tables import Cell, Table, name, scaled, whole, words


def remotes(sources: Sequence[Any]) -> Table | None:
    """The collectors of those of these sessions, on their sources, that have several; None where none has."""
    shown = Table(
        [
            name("MIRROR"),
            name("SESSION"),
            whole("SOURCE", 2),
            whole("COLLECTOR"),
            whole("STATE"),
            whole("BITS/S", 3),
            whole("SENT", 1),
            words("REASON", 4),
        ]
    )
    for source in sources:
        several = source.get("remotes", [])
        for one in several if len(several) > 1 else ():
            shown.row(
                source["mirror"],
                source["session"],
                source["source"],
                one["remote"],
                Cell("up", "green") if one["up"] else Cell("down", "red"),
                scaled(one["bits_per_second"]),
                one["sent_packets"],
                one["reason"],
            )
    return shown if shown.rows else None
