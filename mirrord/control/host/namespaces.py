"""The views of the host's own network namespace and of those that the configuration names, as one.

A namespace comes and goes without a word (a name is a file in /run/netns, a process id ends), so `moved` is to be asked
now and then. What is gone is let go of at once: an open socket would keep a dead container's devices alive.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from dataclasses import replace

from mirrord.control.host.links import Links
from mirrord.control.host.view import Path, View
from mirrord.dataplane import netns
from mirrord.plans import Netns


class Namespaces:
    """As Links, with the namespaces asked for beside it."""

    def __init__(self, host: Links) -> None:
        self._host = host
        self._own = netns.find("/proc/self/ns/net")
        self._others: dict[str, tuple[Netns, Links]] = {}
        self._wanted: frozenset[str] = frozenset()
        self._changed: Callable[[], None] = lambda: None

    async def read(self, paths: Collection[Path], names: Iterable[str] = ()) -> View:
        """The network as it is now, with the routes of these paths, and every namespace of `names` that can be had."""
        self._wanted = frozenset(names)
        view = await self._host.read(path for path in paths if not path.netns)
        views, barred = {}, {}
        for name in [name for name, (there, _) in self._others.items() if _find(name) != there]:
            await self._leave(name)
        for name in self._others.keys() - self._wanted:
            await self._leave(name)
        for name in sorted(self._wanted):
            try:
                place, links = self._reach(name)
                read = await links.read(path for path in paths if path.netns == name)
            except (FileNotFoundError, BrokenExecutor):  # gone, or gone since
                continue
            except OSError as error:
                barred[name] = error.strerror or str(error)
            else:
                views[name] = replace(read, netns=place if place.inode != self._own.inode else None)
        return replace(view, namespaces=views, barred=barred)

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` in the running loop whenever one of the views may have changed."""
        self._changed = changed
        self._host.watch(changed)

    def doubt(self) -> None:
        """Ask the kernels about everything at the next reading."""
        self._host.doubt()
        for _, links in self._others.values():
            links.doubt()

    def moved(self) -> bool:
        """Whether a namespace asked for has come, gone or been replaced."""
        return any(_find(name) != self._others.get(name, (None,))[0] for name in self._wanted)

    async def close(self) -> None:
        """Stop watching and free everything."""
        for name in list(self._others):
            await self._leave(name)
        await self._host.close()

    def _reach(self, name: str) -> tuple[Netns, Links]:
        if name not in self._others:
            place = netns.find(name)
            links = Links(place)
            links.watch(self._changed)
            self._others[name] = place, links
        return self._others[name]

    async def _leave(self, name: str) -> None:
        _, links = self._others.pop(name)
        await links.close()


def _find(name: str) -> Netns | None:
    with suppress(OSError):
        return netns.find(name)
    return None
