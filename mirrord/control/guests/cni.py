"""Containers and pods, as the cache of CNI tells of them: one file for each NIC, with the host's end of its veth.

So containerd, CRI-O and kubelet's pods are found without any engine's API. A file is written when a plugin has made the
NIC, and taken away with it: the kernel tells of both (inotify).

https://www.cni.dev/docs/spec/, "ADD Success"; containernetworking/cni, libcni (the cache's form); inotify(7)
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

from mirrord.control.guests.follower import Follower, UnreachableError
from mirrord.control.guests.inventory import Guest, GuestNic

RESULTS = "/var/lib/cni/results"
"""Where libcni keeps the cache."""

POD, NAMESPACE = "io.kubernetes.pod.name", "io.kubernetes.pod.namespace"
"""The labels that container runtimes give a pod's containers."""

# sys/inotify.h
IN_CLOSE_WRITE, IN_MOVED, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF = 0x8, 0x40 | 0x80, 0x200, 0x400, 0x800
IN_ONLYDIR, IN_IGNORED = 0x01000000, 0x8000
GONE = IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED
EVENT = 16  # bytes, before the name (struct inotify_event)
_libc = ctypes.CDLL(None, use_errno=True)


def is_cache(path: str) -> bool:
    """Whether a path is a cache's, and not that of an engine's socket: a directory; or may be one, called as one is."""
    return os.path.isdir(path) or path == RESULTS  # noqa: PTH112 (Path.is_dir raises where it may not look)


class Cache(Follower):
    """The containers that a directory of results tells of."""

    def __init__(self, path: str, changed: Callable[[], None]) -> None:
        self._path = Path(path)
        super().__init__(f"the CNI cache in {path}", changed)

    async def look(self) -> tuple[Guest, ...]:
        try:
            return await asyncio.to_thread(containers, self._path)
        except OSError as error:
            raise UnreachableError(_why(error)) from error

    async def events(self) -> AsyncGenerator[None, None]:
        news = asyncio.Event()
        descriptor, gone = _watch(self._path), False

        def read() -> None:
            nonlocal gone
            gone = gone or _tells_of_end(os.read(descriptor, 1 << 16))
            news.set()

        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, read)
        try:
            while not gone:
                yield
                await news.wait()
                news.clear()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)


def _watch(path: Path) -> int:
    """A descriptor that can be read when something changes in a directory. UnreachableError."""
    descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise UnreachableError(os.strerror(ctypes.get_errno()))
    wanted = IN_CLOSE_WRITE | IN_MOVED | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR
    if _libc.inotify_add_watch(descriptor, os.fsencode(path), wanted) < 0:
        number = ctypes.get_errno()
        os.close(descriptor)
        raise UnreachableError(_why(OSError(number, os.strerror(number))))
    return int(descriptor)


def _tells_of_end(data: bytes) -> bool:
    """Whether the directory itself is gone, by one of these events."""
    at = 0
    while at + EVENT <= len(data):
        if int.from_bytes(data[at + 4 : at + 8], "little") & GONE:
            return True
        at += EVENT + int.from_bytes(data[at + 12 : at + 16], "little")
    return False


def _why(error: OSError) -> str:
    if error.errno == errno.EACCES:
        return "no permission; the drop-in cni.conf gives the right to read it"
    return "it is not there" if error.errno == errno.ENOENT else str(error.strerror)


def containers(path: Path) -> tuple[Guest, ...]:
    """Those of a directory of results, by name. OSError; a file that is none, or half written, tells of nothing."""
    nics: dict[str, list[GuestNic]] = {}
    labels: dict[str, dict[str, str]] = {}
    for file in sorted(path.iterdir()):
        try:
            told = json.loads(file.read_bytes())
            container, name = told["containerId"], told["ifName"]
            nic = _nic(told, name)
            arguments = dict(told.get("cniArgs") or ())
        except (FileNotFoundError, IsADirectoryError):
            continue
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        nics.setdefault(container, []).append(nic)
        labels[container] = dict(_labels(arguments))
    found = []
    for container, of in nics.items():
        namespace, pod = labels[container].get(NAMESPACE), labels[container].get(POD)
        name = f"{namespace}/{pod}" if namespace and pod else container
        in_order = tuple(sorted(of, key=lambda one: one.name))
        found.append(Guest(name, container, runs=True, nics=in_order, labels=labels[container]))
    return tuple(sorted(found, key=lambda one: one.name))


def _labels(arguments: dict[str, str]) -> Iterator[tuple[str, str]]:
    for label, argument in ((NAMESPACE, "K8S_POD_NAMESPACE"), (POD, "K8S_POD_NAME")):
        if argument in arguments:
            yield label, str(arguments[argument])


def _nic(told: dict[str, Any], name: str) -> GuestNic:
    """One file's NIC. Interfaces without a sandbox are the host's: a bridge, if there is one, then the veth's end."""
    interfaces = told["result"].get("interfaces") or ()
    inside = [one for one in interfaces if one.get("sandbox") and one.get("name") == name]
    outside = [one for one in interfaces if not one.get("sandbox")]
    mac = str(inside[0].get("mac", "")).lower() if inside else ""
    if outside:
        return GuestNic(name, mac, str(outside[-1]["name"]))
    if inside:  # macvlan, ipvlan, or a device that was moved into it
        return GuestNic(name, mac, name, netns=str(inside[0]["sandbox"]))
    return GuestNic(name, mac, "", "the plugin that made it tells of no interface")
