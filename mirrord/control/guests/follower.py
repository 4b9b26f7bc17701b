"""What all followers of a manager share: look, wait for news, look again; begin anew when the manager is gone.

A manager that is slow, hangs or dies holds up nothing but its own news: each is asked in a task of its own, within a
bound of time, and its last answer holds until there is another.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress

from mirrord.control.guests.inventory import Answer, Guest
from mirrord.control.logs import logger

log = logger("guests")

AGAIN_SECONDS = 0.25, 5.0
"""How long to wait before a manager that is gone is tried again: at first, and at most. Each time twice as long."""

PATIENCE_SECONDS = 10.0
"""How long a manager may take to answer one look."""


class UnreachableError(Exception):
    """The manager cannot be asked; the message says why, and what to do."""


class Follower(ABC):
    """Follows one manager. `answer` is what it told last; `changed` is called when that is another one."""

    def __init__(self, name: str, changed: Callable[[], None]) -> None:
        self.name, self.answer, self._changed = name, Answer(problem=f"{name} has not answered yet"), changed
        self.silent = True
        """Whether nothing is known yet, not even that it cannot be asked."""
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._follow())

    @abstractmethod
    async def look(self) -> tuple[Guest, ...]:
        """Every guest there is. UnreachableError, OSError."""

    @abstractmethod
    def events(self) -> AsyncGenerator[None, None]:
        """One item for each event, the first when events are listened for. Ends, or UnreachableError, OSError."""

    def nudge(self) -> None:
        """Look again: something happened that the manager's events may not tell of."""
        self._news.set()

    def end(self) -> None:
        """Stop following soon; do not wait for it."""
        self._task.cancel()

    async def close(self) -> None:
        """Stop following, and wait until that is done."""
        self.end()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _follow(self) -> None:
        wait, longest = AGAIN_SECONDS
        while True:
            before = self.answer
            try:
                await self._listen()
                problem = f"{self.name} has gone away"
            except TimeoutError:
                problem = f"{self.name} does not answer"
            except (UnreachableError, OSError) as error:
                problem = f"{self.name}: {error}"
            except Exception as error:  # what nobody foresaw is not to end the following for good
                problem = f"{self.name}: what it says cannot be understood ({type(error).__name__}: {error})"
                if problem != self.answer.problem:
                    log.exception("a bug", manager=self.name)
            if self.answer is not before:
                wait = AGAIN_SECONDS[0]  # it was there
            self._tell(Answer(self.answer.guests, problem))
            await asyncio.sleep(wait)
            wait = min(2 * wait, longest)

    async def _listen(self) -> None:
        """Look at each event until there are no more. Listening begins before the first look: no change is missed."""
        tasks = [asyncio.create_task(self._hear()), asyncio.create_task(self._keep_looking())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _hear(self) -> None:
        async with aclosing(self.events()) as events:
            async for _ in events:
                self._news.set()

    async def _keep_looking(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            async with asyncio.timeout(PATIENCE_SECONDS):
                self._tell(Answer(await self.look()))

    def _tell(self, answer: Answer) -> None:
        self.silent = False
        if answer == self.answer:
            return
        if answer.problem and answer.problem != self.answer.problem:
            log.warning(answer.problem, manager=self.name)
        elif self.answer.problem and not answer.problem:
            log.info("answers", manager=self.name)
        self.answer = answer
        self._changed()
