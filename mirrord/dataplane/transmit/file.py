"""Copies into pcapng files.

The file in work has the plan's name, always, and is locked (flock(2)), so that nobody takes it for left behind. A
finished one is renamed for the time of its last packet, in UTC: `core.pcapng` becomes
`core-20260131T235959.123456789Z.pcapng`. So names sort by time, the file in work last, and nothing is ever overwritten:
what a daemon before this one left under the name is finished, too, whatever ended it. Which files give way is not for
names to say: see retention.

A file is only ever appended to, whole blocks at a time, and what a full disk cut is cut back, so that it can be read
at any moment. While nothing can be written, frames are counted as lost, and a write is tried again every second.

`limit` bounds a file exactly: only a packet that is larger by itself goes beyond. A file's seconds count from its first
packet; a file without packets does not rotate.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from pathlib import PurePath
from typing import TYPE_CHECKING

from mirrord import __version__
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.transmit import pcapng
from mirrord.dataplane.transmit.file_names import final_name
from mirrord.dataplane.transmit.output import Output, write_all
from mirrord.dataplane.transmit.retention import Finished
from mirrord.dataplane.transmit.way import Way
from mirrord.dataplane.transmit.way_out import Sent, WayOut
from mirrord.ownership import give_to_owner_of
from mirrord.plans import FilePlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mirrord.dataplane.forward.step import Copy
    from mirrord.dataplane.transmit.lanes import NativeLane

LOOK_SECONDS = 1.0
"""How often a file that cannot be written is tried again, and one that may have been deleted is looked for."""

MODE = 0o640
HEAD = 512  # bytes: more than names of 63 characters make of a section header
SAME_MOMENT = 1_000_000_000
"""Nanoseconds: files that the clock tells this little apart, or in the wrong order, are named in the right one."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FileTransmit(WayOut):
    """Where the copies of a session go that has a file. `failure` says why nothing is written ("" while it is).

    Raises OSError, whose strerror names the path, when the first file cannot be made.
    """

    exclusive = True
    output: Output

    def __init__(self, plan: FilePlan) -> None:
        self.plan = plan
        self.failure = ""
        self._header = pcapng.section(f"mirrord {__version__}", plan.comment)
        self._header += pcapng.interface(plan.interface, plan.snaplen, plan.comment, raw=plan.raw)
        self.output = Output(descriptor=-1, start=len(self._header), limit=plan.rotate_size)
        self._stuck_at = 0
        self._look_at = time.monotonic() + LOOK_SECONDS
        self._due: float | None = None  # the end of the file's seconds, once it has a packet
        self._last_stamp = 0
        self._name = PurePath(plan.name).name
        self._directory = -1
        try:
            self._directory = _open_below(plan.directory, PurePath(plan.name).parent.parts)
            self._finished = Finished(self._directory, self._name) if plan.keep else None
            self._begin()
        except OSError as error:
            self.close()
            raise OSError(error.errno, f"{plan.path}: {error.strerror}") from error

    def native(self) -> tuple[Way, ...]:
        """For the native core: no sockets, no TX ring."""
        return (Way(),)

    @property
    def callback(self) -> Callable[..., NativeLane | None]:
        return self.next_file

    def stuck(self) -> str:
        return f"{self.plan.path}: the disk does not answer"

    def send(self, copies: Iterable[Copy]) -> Sent:
        """Append copies in order, up to the first that cannot be."""
        output, accepted = self.output, 0
        for copy in copies:
            block = copy.data + copy.trailer
            if output.limit and output.written > output.start and output.written + len(block) > output.limit:
                self.next_file()
            if not output.error:
                self._append(block)
            if output.error:
                return Sent(accepted, output.error)
            accepted += 1
        return Sent(accepted)

    def lost(self, _error: int) -> Slot:
        """What a frame counts as that could not be written."""
        return Slot.dropped_write_error

    def _append(self, block: bytes) -> None:
        output = self.output
        _, output.error = write_all(output.descriptor, block)
        if not output.error:
            output.written += len(block)
            return
        with contextlib.suppress(OSError):
            os.ftruncate(output.descriptor, output.written)

    def next_file(self) -> None:
        """Finish this file and begin another; without one, output.error says why."""
        try:
            self._begin()
        except OSError as error:
            self.output.error = error.errno or errno.EIO

    def tend(self) -> None:
        """Rotate by time, and retry after an error. To be called between turns."""
        output, now = self.output, time.monotonic()
        if self.plan.rotate_seconds and output.written > output.start and not output.error:
            self._due = self._due or now + self.plan.rotate_seconds
            if now >= self._due:
                self.next_file()
        if output.error and not self.failure:
            self.failure = f"{self.plan.path}: {os.strerror(output.error)}"
            self._stuck_at, self._look_at = output.written, now + LOOK_SECONDS
        elif self.failure and not output.error and output.written != self._stuck_at:
            self.failure = ""
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._look()

    def _look(self) -> None:
        """Try again what failed, and leave a file that was deleted."""
        if self.output.descriptor < 0 or os.fstat(self.output.descriptor).st_nlink == 0:
            self.next_file()
        else:
            self.output.error, self._stuck_at = 0, self.output.written

    def _begin(self) -> None:
        """Leave the file in work, give it its last name, and make a new one."""
        self._leave()
        self._finish()
        if self._finished is not None:
            self._finished.keep(self.plan.keep - 1)
        descriptor = os.open(self._name, _NEW_FILE, MODE, dir_fd=self._directory)
        try:
            self._hold(descriptor)
            os.fchmod(descriptor, MODE)  # whatever the umask
            give_to_owner_of(self._directory, descriptor)
            if os.write(descriptor, self._header) < len(self._header):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except BaseException as error:
            os.close(descriptor)
            if getattr(error, "errno", 0) != errno.EBUSY:  # then the name is another's
                os.unlink(self._name, dir_fd=self._directory)
            raise
        self.output.descriptor, self.output.error = descriptor, 0
        self.output.written, self._due = len(self._header), None

    def _leave(self) -> None:
        if self.output.descriptor >= 0:
            os.close(self.output.descriptor)
            self.output.descriptor = -1

    def _finish(self) -> None:
        """Rename what has the file's name; if there is no packet in it, delete it."""
        try:
            found = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EEXIST, "something is there that is not a file")
        with self._held(found) as head:
            if not found.st_size or (found.st_size == len(self._header) and head.startswith(self._header)):
                os.unlink(self._name, dir_fd=self._directory)
                return
            name = self._final_name(found.st_mtime_ns)
            if self._finished is not None and _is_ours(head):
                self._finished.add(name)
            os.rename(self._name, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    @contextlib.contextmanager
    def _held(self, found: os.stat_result) -> Iterator[bytes]:
        """Hold what has the file's name, while it is given another; how it begins. OSError: somebody writes it."""
        try:
            descriptor = os.open(self._name, _READ, dir_fd=self._directory)
        except PermissionError:  # of another user: nothing can be told about it
            yield b""
            return
        try:
            if not os.path.samestat(os.fstat(descriptor), found):
                raise _in_use()
            _lock(descriptor)
            yield os.read(descriptor, max(HEAD, len(self._header)))
        finally:
            os.close(descriptor)

    def _hold(self, descriptor: int) -> None:
        """Lock the new file. OSError: somebody has taken it for left behind before that."""
        _lock(descriptor)
        found = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
        if not os.path.samestat(os.fstat(descriptor), found):
            raise _in_use()

    def _final_name(self, stamp: int) -> str:
        """For the time of the last packet, as the clock was then; the order of files finished together is kept."""
        if self._last_stamp - SAME_MOMENT < stamp <= self._last_stamp:
            stamp = self._last_stamp + 1
        while os.access(name := final_name(self._name, stamp), os.F_OK, dir_fd=self._directory, follow_symlinks=False):
            stamp += 1
        self._last_stamp = stamp
        return name

    def close(self) -> None:
        self._leave()
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


def _lock(descriptor: int) -> None:
    """Lock a file. OSError: another has it locked. On a file system without locks it is as if it were locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use() from None
    except OSError:
        pass


def _in_use() -> OSError:
    return OSError(errno.EBUSY, "another session or program writes this file")


def _is_ours(head: bytes) -> bool:
    """Whether a file that begins like this is one that mirrord wrote."""
    return head.startswith(pcapng.SECTION.to_bytes(4, "little")) and b"mirrord " in head


def _open_below(directory: str, parts: tuple[str, ...]) -> int:
    descriptor = os.open(directory, _DIRECTORY)
    for part in parts:
        try:
            below = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor
