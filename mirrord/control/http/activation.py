"""The unix sockets of the control API: bound here, or bound by systemd and taken over (sd_listen_fds(3))."""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

MODE = 0o660
FIRST = 3  # SD_LISTEN_FDS_START
SOCKET, READ_ONLY_SOCKET = "mirrord.sock", "mirrord-read-only.sock"
"""FileDescriptorName= of the sockets."""


def listen(path: Path, group: str) -> socket.socket:
    """A listening unix socket with mode 0660, owned by this group if one is named.

    A socket that a dead daemon left behind is replaced. OSError: another daemon listens there (EADDRINUSE), what is
    there is no socket (EEXIST), or the place or the group cannot be had.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "exists and is not a socket", str(path))
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.parent.mkdir(parents=True, exist_ok=True)
    before = os.umask(0o777 & ~MODE)
    try:
        listener.bind(str(path))
        if group:
            os.chown(path, -1, _group(group))
        listener.listen(64)
    finally:
        os.umask(before)
    return listener


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise OSError(errno.ENOENT, f"no such group: {name}") from None


def activated() -> dict[str, socket.socket]:
    """The listening sockets that the service manager passed, by their FileDescriptorName=. They are passed once.

    No process that this one starts gets them, or hears of them.
    """
    pid, count, names = (os.environ.pop(f"LISTEN_{key}", "") for key in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()):
        return {}
    found = {}
    for descriptor, name in zip(range(FIRST, FIRST + int(count)), names.split(":"), strict=False):
        os.set_inheritable(descriptor, False)
        found[name] = socket.socket(fileno=descriptor)
    return found
