"""Sets by a key, kept up one member at a time and read as values that never change.

What is put in costs as much as it is; whoever reads gets a mapping that is shared with whoever read before, as long as
nothing was put in. Reading after a change copies the mapping, not the sets in it that are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
M = TypeVar("M")


class Index(Generic[K, M]):
    """Keys without members are not there."""

    def __init__(self) -> None:
        self._sets: dict[K, frozenset[M]] = {}
        self._news: dict[K, dict[M, bool]] = {}  # since it was read last: what came, and what went

    def put(self, key: K, member: M, *, there: bool) -> None:
        """Have it among the members of this key, or not any more."""
        self._news.setdefault(key, {})[member] = there

    def read(self) -> Mapping[K, frozenset[M]]:
        """As it is now."""
        if self._news:
            sets = self._sets.copy()
            for key, news in self._news.items():
                came = {member for member, there in news.items() if there}
                members = (sets.get(key, frozenset()) - news.keys()) | came
                if members:
                    sets[key] = members
                else:
                    sets.pop(key, None)
            self._sets, self._news = sets, {}
        return self._sets
