"""The daemon's service without its server, in the test's own process: what it does can be made to fail, or counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

from mirrord.control.configuration import config
from mirrord.control.host.links import Links
from mirrord.control.privileges import Privileges
from mirrord.control.running.pipelines import Pipelines
from mirrord.control.service import Service
from tests.support.topology import Host


class Turning:
    """It follows the host, and looks at what runs, until the block ends: by itself neither may end."""

    def __init__(self, path: Path) -> None:
        self.pipelines = Pipelines(native=False)
        loaded = config.load(str(path))
        self.service = Service(str(path), loaded, Links(), self.pipelines, "python", Privileges())
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.service.start()
        self.tasks = [asyncio.create_task(self.service.follow()), asyncio.create_task(self.service.tick())]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert [task.done() for task in self.tasks] == [False, False]
        for task in self.tasks:
            task.cancel()
        await self.service.stop()

    def states(self) -> list[str]:
        return [state for state, _ in self.service.states().values()]


def in_host(host: Host, scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario()

    host.call(lambda: asyncio.run(run()))
