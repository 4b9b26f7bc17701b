"""Copies into pcapng files.

The file in work has the plan's name, always. A finished one is renamed for the time of its last packet, in UTC:
`core.pcapng` becomes `core-20260131T235959.123456789Z.pcapng`. So names sort by time, the file in work last, and
nothing is ever overwritten: what a daemon before this one left under the name is finished, too, whatever ended it.

A file is only ever appended to, whole blocks at a time, and what a full disk cut is cut back, so that it can be read
at any moment. While nothing can be written, frames are counted as lost, and a write is tried again every second.

`limit` bounds a file exactly: only a packet that is larger by itself goes beyond. A file's seconds count from its first
packet; a file without packets does not rotate.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import stat
import time
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from mirrord import __version__
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.transmit import pcapng
from mirrord.dataplane.transmit.sockets import Sent

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from mirrord.dataplane.forward.step import Copy

LOOK_SECONDS = 1.0
"""How often a file that cannot be written is tried again, and one that may have been deleted is looked for."""

MODE = 0o640
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class FilePlan:
    """Copies are appended to `name`, a path below `directory` in which no symbolic link is followed."""

    directory: str
    name: str
    interface: str  # that the packets were captured on
    comment: str = ""
    snaplen: int = 0
    rotate_size: int = 0  # bytes; 0: any
    rotate_seconds: int = 0  # 0: any
    keep: int = 0  # files, the one in work included; 0: all

    @property
    def path(self) -> str:
        return os.path.join(self.directory, self.name)  # noqa: PTH118 (text for messages)


class Output(ctypes.Structure):
    """Where blocks go now. The native core has the same memory, and writes there itself (struct output)."""

    descriptor: int
    error: int  # errno: why nothing is written; 0: it is
    written: int  # bytes in the file, whole blocks all of them
    start: int  # bytes before its first packet
    limit: int  # bytes that it may have; 0: any

    _fields_ = (
        ("descriptor", ctypes.c_int64),
        ("error", ctypes.c_int64),
        ("written", ctypes.c_int64),
        ("start", ctypes.c_int64),
        ("limit", ctypes.c_int64),
    )


class FileTransmit:
    """Where the copies of a session go that has a file. `failure` says why nothing is written ("" while it is).

    Raises OSError, whose strerror names the path, when the first file cannot be made.
    """

    sockets: tuple[socket.socket, ...] = ()

    def __init__(self, plan: FilePlan) -> None:
        self.plan = plan
        self.failure = ""
        self._header = pcapng.section(f"mirrord {__version__}", plan.comment)
        self._header += pcapng.interface(plan.interface, plan.snaplen, plan.comment)
        self.output = Output(descriptor=-1, start=len(self._header), limit=plan.rotate_size)
        self._stuck_at = 0
        self._look_at = time.monotonic() + LOOK_SECONDS
        self._due: float | None = None  # the end of the file's seconds, once it has a packet
        self._last_stamp = 0
        self._name = PurePath(plan.name).name
        self._directory = -1
        try:
            self._directory = _open_below(plan.directory, PurePath(plan.name).parent.parts)
            self._begin()
        except OSError as error:
            self.close()
            raise OSError(error.errno, f"{plan.path}: {error.strerror}") from error

    def native(self) -> tuple[object, ...]:
        """For the native core: no sockets, no TX ring."""
        return (), (), -1, b"", False, -1, None, 0

    def told(self) -> bool:
        """No router has a word about a file."""
        return False

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
        try:
            done = os.write(output.descriptor, block)
        except OSError as error:
            output.error = error.errno or errno.EIO
        else:
            if done == len(block):
                output.written += done
                return
            output.error = errno.ENOSPC
        with contextlib.suppress(OSError):
            os.ftruncate(output.descriptor, output.written)

    def next_file(self) -> None:
        """Finish this file and begin another; without one, output.error says why."""
        try:
            self._begin()
        except OSError as error:
            self.output.error = error.errno or errno.EIO

    def tend(self) -> None:
        """See to what time brings; to be called between turns."""
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
        self._prune()
        descriptor = os.open(self._name, _NEW_FILE, MODE, dir_fd=self._directory)
        try:
            os.fchmod(descriptor, MODE)  # whatever the umask
            if os.write(descriptor, self._header) < len(self._header):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except BaseException:
            os.close(descriptor)
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
        if self._is_empty(found.st_size):
            os.unlink(self._name, dir_fd=self._directory)
            return
        stamp = max(found.st_mtime_ns, self._last_stamp + 1)
        while os.access(self._final_name(stamp), os.F_OK, dir_fd=self._directory, follow_symlinks=False):
            stamp += 1
        os.rename(self._name, self._final_name(stamp), src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self._last_stamp = stamp

    def _is_empty(self, size: int) -> bool:
        if size != len(self._header):
            return size == 0
        descriptor = os.open(self._name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            return os.read(descriptor, size) == self._header
        finally:
            os.close(descriptor)

    def _final_name(self, stamp: int) -> str:
        seconds, nanoseconds = divmod(stamp, 1_000_000_000)
        name = PurePath(self._name)
        return f"{name.stem}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{nanoseconds:09}Z{name.suffix}"

    def _prune(self) -> None:
        """Delete the oldest files that are one too many with the one to come."""
        if not self.plan.keep:
            return
        name = PurePath(self._name)
        ours = re.compile(re.escape(name.stem) + r"-\d{8}T\d{6}\.\d{9}Z" + re.escape(name.suffix))
        finished = sorted(filter(ours.fullmatch, os.listdir(self._directory)))  # noqa: PTH208 (of a descriptor)
        for old in finished[: max(len(finished) + 1 - self.plan.keep, 0)]:
            os.unlink(old, dir_fd=self._directory)

    def close(self) -> None:
        self._leave()
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


def _open_below(directory: str, parts: tuple[str, ...]) -> int:
    descriptor = os.open(directory, _DIRECTORY)
    for part in parts:
        try:
            below = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor
