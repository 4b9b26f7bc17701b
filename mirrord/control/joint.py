"""Work that many may ask for at a time, and that is done for all of them at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class Joint(Generic[T]):
    """Whoever asks while the work is done shares the next time, which knows what has happened until then; so however
    many ask at a time, it is done twice at most, and never twice at once.
    """

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._now: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        """What the work gives, or raises. One who ceases to wait for it keeps nobody else from it."""
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._now))
            self._next.add_done_callback(_heard)
        return await asyncio.shield(self._next)

    async def _after(self, before: asyncio.Task[T] | None) -> T:
        if before is not None:
            await asyncio.wait([before])
        self._now, self._next = self._next, None
        try:
            return await self._work()
        finally:
            self._now = None  # what it gave may be large


def _heard(task: asyncio.Task[T]) -> None:
    """Its error is nobody's, if nobody waits any more."""
    if not task.cancelled():
        task.exception()
