"""Who asks the daemon: a process at the other end of a unix socket, as the kernel noted it (SO_PEERCRED), or itself."""

from __future__ import annotations

import os
import pwd
import socket
import struct
from typing import NamedTuple

_UCRED = struct.Struct("3i")  # pid, uid, gid


class Caller(NamedTuple):
    """A process and its user; `user` is the number where the host knows no name."""

    uid: int
    gid: int
    pid: int
    user: str


def peer(descriptor: int) -> Caller:
    """The process that connected."""
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Caller(uid, gid, pid, _user(uid))


def myself() -> Caller:
    """The daemon, for what it does on a signal."""
    return Caller(os.getuid(), os.getgid(), os.getpid(), _user(os.getuid()))


def itself() -> Caller:
    """The daemon, for what it does of its own accord, whoever its user is."""
    return myself()._replace(user="mirrord")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
