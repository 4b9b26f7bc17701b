"""Sockets of another network namespace: a socket stays where it was opened, whichever thread uses it.

network_namespaces(7), setns(2), which needs CAP_SYS_ADMIN; another user's process also needs CAP_SYS_PTRACE (proc(5))
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mirrord.kernel import CLONE_NEWNET
from mirrord.plans import Netns

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
LACKS = "needs {}, which the drop-in netns.conf adds to the systemd unit"
_libc = ctypes.CDLL(None, use_errno=True)


def find(name: str) -> Netns:
    """The namespace of this name, process id or path. FileNotFoundError when there is none, PermissionError."""
    if name.startswith("/"):
        path = name
    elif name.isdecimal():
        path = f"/proc/{name}/ns/net"
    else:
        path = f"/run/netns/{name}"
    try:
        return Netns(path, Path(path).stat().st_ino)
    except PermissionError as error:
        raise PermissionError(error.errno, LACKS.format("CAP_SYS_PTRACE"), path) from error


def own_name() -> str:
    """The name of this process's namespace; "" where it is the host's, as far as can be seen."""
    own = Path("/proc/self/ns/net").stat().st_ino
    with suppress(OSError):
        for named in sorted(Path("/run/netns").iterdir()):
            if named.stat().st_ino == own:
                return named.name
    with suppress(OSError):  # of another user's process the kernel does not tell
        if Path("/proc/1/ns/net").stat().st_ino != own:
            return f"net:[{own}]"
    return ""


def enter(netns: Netns) -> None:
    """Move the calling thread there for good. OSError: EPERM without the privilege, ENOENT when it was replaced."""
    descriptor = os.open(netns.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_ino != netns.inode:
            raise OSError(errno.ENOENT, "the network namespace was replaced", netns.path)
        if _libc.setns(descriptor, CLONE_NEWNET):
            number = ctypes.get_errno()
            text = LACKS.format("CAP_SYS_ADMIN") if number == errno.EPERM else os.strerror(number)
            raise OSError(number, text, netns.path)
    finally:
        os.close(descriptor)


def inside(netns: Netns | None, work: Callable[[], T]) -> T:
    """What `work` returns or raises, done there; None: here. OSError as `enter`."""
    if netns is None:
        return work()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            enter(netns)
            results.append(work())
        except BaseException as error:  # noqa: BLE001 (raised below, in the caller's thread)
            errors.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
