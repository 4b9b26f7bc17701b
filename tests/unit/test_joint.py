"""Work that many ask for is done for all of them at once."""

from __future__ import annotations

import asyncio

import pytest

from mirrord.control.joint import Joint


class Work:
    """It gives the number of what it saw when it began, and ends when it is told to."""

    def __init__(self) -> None:
        self.changes = self.done = self.at_once = 0
        self.go = asyncio.Event()

    async def __call__(self) -> int:
        self.at_once += 1
        assert self.at_once == 1
        seen = self.changes
        try:
            await self.go.wait()
            if seen == 1:
                raise KeyError("nobody")
        finally:
            self.at_once -= 1
            self.done += 1
        return seen


async def asked(joint: Joint[int], times: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(joint()) for _ in range(times)]
    await asyncio.sleep(0)  # they have asked,
    await asyncio.sleep(0)  # and it has begun
    return tasks


async def test_those_who_ask_while_it_is_done_share_the_next_time() -> None:
    work = Work()
    joint = Joint(work)
    first = await asked(joint, 50)
    work.changes = 2
    later = await asked(joint, 50)
    work.go.set()
    assert await asyncio.gather(*first) == [0] * 50
    assert await asyncio.gather(*later) == [2] * 50, "they know of the change"
    assert work.done == 2
    work.changes = 3
    assert await joint() == 3


async def test_an_error_is_everybodys_and_the_next_time_is_another() -> None:
    work = Work()
    joint = Joint(work)
    work.changes = 1
    first = await asked(joint, 3)
    work.changes = 2
    later = await asked(joint, 3)
    work.go.set()
    for task in first:
        with pytest.raises(KeyError):
            await task
    assert await asyncio.gather(*later) == [2, 2, 2]


async def test_who_does_not_wait_any_more_keeps_nobody_from_it() -> None:
    work = Work()
    joint = Joint(work)
    impatient, patient = await asked(joint, 2)
    impatient.cancel()
    await asyncio.sleep(0)
    work.go.set()
    assert await patient == 0
    assert impatient.cancelled()
    work.changes, work.go = 1, asyncio.Event()
    (alone,) = await asked(joint, 1)
    alone.cancel()  # and nobody hears of the error
    await asyncio.sleep(0)
    work.go.set()
    work.changes = 2
    assert await joint() == 2
    assert work.done == 3
