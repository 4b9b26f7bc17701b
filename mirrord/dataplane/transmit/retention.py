"""Which finished files give way: those written first, whatever their names and times say.

The order is in a list beside the files, `.core.pcapng.files` for `core.pcapng`: a name a line, the one written first at
the top. A file that is not in it is never deleted: it is from a time before there was a list, or somebody else's. So a
clock that steps, either way, has no say in what is kept.

A list is replaced as a whole, before the file that is new in it gets its name, so that a process that is killed leaves
none out. A thread of its own has the disk take it: a worker never waits for that. What a power cut takes with it is, at
worst, the place in the list of the file finished last: that file stays.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import threading

from mirrord.dataplane.transmit.file_names import final_names, list_name
from mirrord.ownership import give_to_owner_of

LIST_MODE = 0o640
MOST_UNSYNCED = 64
_HEAD = "# finished files, the one written first at the top; mirrord deletes none that is not here\n"
_LIST = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Finished:
    """The finished files of one name in a directory, which is open as `directory`."""

    def __init__(self, directory: int, name: str) -> None:
        self._directory, self._name = directory, name
        self._names = read(directory, name)

    def add(self, name: str) -> None:
        """Add a file to the list, as the one written last. It may be renamed to that name now.

        On a disk that has no room for the list, that is in memory alone until there is room.
        """
        self._names.append(name)
        text = (_HEAD + "".join(f"{one}\n" for one in self._names)).encode()
        new, place = list_name(self._name) + ".new", self._directory
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new, dir_fd=place)  # of a process that was killed
            descriptor = os.open(new, _LIST, LIST_MODE, dir_fd=place)
            try:
                give_to_owner_of(place, descriptor)
                if os.write(descriptor, text) == len(text):
                    os.rename(new, list_name(self._name), src_dir_fd=place, dst_dir_fd=place)
                    _sync_later(descriptor, place)
            finally:
                os.close(descriptor)

    def keep(self, count: int) -> None:
        """Delete those written first until there are no more than this. OSError when one cannot be deleted."""
        while len(self._names) > count:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._names[0], dir_fd=self._directory)
            del self._names[0]


def read(directory: int, name: str) -> list[str]:
    """The list of a name's finished files, without those that are gone."""
    try:
        descriptor = os.open(list_name(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return []
    with os.fdopen(descriptor, errors="replace") as file:
        lines = file.read().splitlines()
    there = set(os.listdir(directory))
    return [line for line in dict.fromkeys(lines) if line in there and final_names(name).fullmatch(line)]


# --- what the disk has to take ---

_unsynced: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()


def _sync_later(*descriptors: int) -> None:
    """Sync a file and its directory soon. At most MOST_UNSYNCED wait; further ones are not synced."""
    with contextlib.suppress(OSError, RuntimeError):  # no descriptors, no threads: it is no worse than unsynced
        _start_syncing()
        if _unsynced.qsize() < MOST_UNSYNCED:
            file, directory = map(os.dup, descriptors)
            _unsynced.put((file, directory))


@functools.cache
def _start_syncing() -> None:
    threading.Thread(target=_sync, name="file-sync", daemon=True).start()


def _sync() -> None:
    while True:
        for descriptor in _unsynced.get():
            with contextlib.suppress(OSError):
                os.fsync(descriptor)
            os.close(descriptor)
