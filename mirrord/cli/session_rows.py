"""Sessions as a table: a line for each of their sources, and below it what there is to say of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mirrord.cli.screen import Screen
from mirrord.cli.tables import Cell, Table, coloured, name, scaled, whole, words
from mirrord.errors import of_any, some


def print_sessions(sessions: Sequence[Any], screen: Screen) -> None:
    """A table of sessions, one line for each of their sources, and what there is to say of them."""
    shown = Table(
        [
            name("MIRROR"),
            name("SESSION"),
            whole("SOURCE", 1),
            words("DESTINATION", 3),
            whole("STATE"),
            whole("FRAMES/S", 5),
            whole("BITS/S", 4),
            whole("MIRRORED", 2),
            whole("DROPPED"),
        ]
    )
    for session in sessions:
        shown.row(
            session["mirror"],
            session["session"],
            place(session),
            session["destination"],
            coloured(session["state"]),
            scaled(session["frames_per_second"]),
            scaled(session["bits_per_second"]),
            session["counters"]["mirrored_frames"],
            dropped([session]),
        )
    screen.table(shown)
    for line in _remarks(sessions):
        screen.print(line)


def place(session: Any) -> str:
    """The source, its network namespace where that is not the daemon's, and the tunnels that are looked into."""
    where = f"{session['source']} in {session['netns']}" if session.get("netns") else str(session["source"])
    return f"{where} inside {session['inside']}" if session.get("inside") else where


def _remarks(sessions: Sequence[Any]) -> Iterator[str]:
    """What there is to say of them; what is the same of several, once."""
    about: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for session in sessions:
        for remark in filter(None, [session["reason"], *session["warnings"]]):
            where = f"{session['mirror']}/{session['session']} on {place(session)}"
            about.setdefault((session["state"], of_any(remark, session["source"])), []).append((where, remark))
    for (state, alike), said in about.items():
        yield f"{some([where for where, _ in said])}: {state}: {said[0][1] if len(said) == 1 else alike}"


def dropped(sources: Sequence[Any]) -> Cell:
    """How many frames were lost, in red if there are any."""
    lost = sum(count for source in sources for count in source["counters"]["dropped_frames"].values())
    return Cell(str(lost), "red" if lost else "")
