"""What the daemon keeps of its capabilities once it is set up: what its work takes and what its configuration names.

All others are given up for good, by the only thread that there is, so that every later one has no more. What the
configuration comes to need afterwards is not to be had without a restart, and is refused.

capabilities(7), capset(2), prctl(2), PR_CAPBSET_DROP
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Collection, Iterator
from glob import has_magic
from pathlib import Path
from typing import NamedTuple

from mirrord.control.configuration.config import Loaded
from mirrord.control.guests.cni import is_cache
from mirrord.control.guests.processes import ADDRESS as PROCESSES
from mirrord.control.logs import logger
from mirrord.errors import Problem
from mirrord.kernel import PR_CAPBSET_DROP
from mirrord.model import (
    Config,
    ContainerSource,
    Destination,
    FileDestination,
    PcapDestination,
    Source,
    TunnelSource,
    VmDestination,
    VmSource,
)
from mirrord.model.validation import join

log = logger("privileges")

NAMES = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
        "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
        "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
        "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
        "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
        "CHECKPOINT_RESTORE",
    )
)  # fmt: skip
"""By number, linux/capability.h."""

ALWAYS = ("CAP_NET_ADMIN", "CAP_NET_RAW")
FILES = ("CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER")
"""For files of other users: to use them, and to leave them theirs."""

UNPRIVILEGED_PORTS = 1024
VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Words(ctypes.Structure):
    """Of capabilities 0 to 31, or 32 to 63."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


class Need(NamedTuple):
    """A capability, and what in the configuration asks for it."""

    capability: str
    path: str
    why: str
    mirror: str = ""
    perhaps: bool = False  # it is kept, and does without


class Privileges:
    """What was given up. `settle` is called once, while there is one thread; before it, nothing was."""

    def __init__(self) -> None:
        self.given_up: frozenset[str] = frozenset()

    def settle(self, path: str, loaded: Loaded) -> None:
        """Keep what is needed, and nothing else. `path` is the configuration's."""
        before = held()
        _set(before, before - set(FILES))  # to find out whose files can be used without
        needed = needs(path, loaded)
        kept = before & {*ALWAYS, *(need.capability for need in needed)}
        _drop(kept)
        self.given_up = before - held()
        if surplus := held() - kept:
            log.warning("capabilities that are not needed could not be given up", capabilities=sorted(surplus))
        log.info("privileges", kept=sorted(held()))

    def lacking(self, path: str, before: Loaded, after: Loaded) -> list[Problem]:
        """What another configuration needs that was given up, and the one before it does not."""
        if not self.given_up:
            return []
        there = frozenset(id(one) for mirror in before.config.mirrors.values() for one in mirror.sessions)
        needed = needs(path, after, there)
        wanted = [need for need in needed if need.capability in self.given_up and not need.perhaps]
        known = set(needs(path, before)) if wanted else set[Need]()
        return [_lacking(need, path, after) for need in wanted if need not in known]


def _lacking(need: Need, path: str, after: Loaded) -> Problem:
    """A restart looks at the files: what is to be made at run time is not in them."""
    file = after.origin("mirrors", need.mirror) if need.mirror else path
    mend = "restart it" if file else "define it in a file, and restart mirrord"
    return Problem(need.path, f"{need.why} needs {need.capability}, which mirrord gave up at its start: {mend}", file)


def held() -> frozenset[str]:
    """The calling thread's capabilities, of the permitted set."""
    status = Path("/proc/thread-self/status").read_text()
    permitted = int(next(line for line in status.splitlines() if line.startswith("CapPrm:")).split()[1], 16)
    return frozenset(name for number, name in enumerate(NAMES) if permitted >> number & 1)


def needs(path: str, loaded: Loaded, there: frozenset[int] = frozenset()) -> list[Need]:
    """What this configuration needs beside what is always kept; of disabled mirrors, too, which may be enabled. Of
    sessions that are `there`, by their identity, only what files need, whose owners may be others now.
    """
    return [*_of_sessions(loaded.config, there), *_of_files(path, loaded.config)]


def _of_sessions(config: Config, there: frozenset[int]) -> Iterator[Need]:
    for name, mirror in config.mirrors.items():
        for index, session in enumerate(mirror.sessions):
            if id(session) in there:
                continue
            at = "mirrors", name, "sessions", index
            for side, end in (("source", session.source), ("destination", session.destination)):
                netns = getattr(end, "netns", None)
                if netns is not None:
                    yield Need("CAP_SYS_ADMIN", join(*at, side, "netns"), "to enter a network namespace", name)
                if netns is not None and (netns.isdecimal() or netns.startswith("/proc/")):
                    yield Need(
                        "CAP_SYS_PTRACE", join(*at, side, "netns"), "the namespace of another user's process", name
                    )
                yield from _of_guests(end, (*at, side), name)
            listen = session.destination.listen if isinstance(session.destination, PcapDestination) else None
            if listen is not None and listen.port < UNPRIVILEGED_PORTS:
                where = join(*at, "destination", "listen")
                yield Need("CAP_NET_BIND_SERVICE", where, f"to listen on port {listen.port}", name)
            port = getattr(session.source, "port", None) if isinstance(session.source, TunnelSource) else None
            if port is not None and port < UNPRIVILEGED_PORTS:
                yield Need("CAP_NET_BIND_SERVICE", join(*at, "source", "port"), f"to listen on port {port}", name)
    allowed, _ = resource.getrlimit(resource.RLIMIT_NICE)
    if config.daemon.nice < min(0, 20 - allowed):  # getrlimit(2)
        yield Need("CAP_SYS_NICE", "daemon.nice", f"a priority of {config.daemon.nice}")


def _of_guests(end: Source | Destination, at: tuple[str, str, str, int, str], mirror: str) -> Iterator[Need]:
    """To ask about guests where no manager answers."""
    if isinstance(end, VmSource | VmDestination) and end.connection == PROCESSES:
        yield Need("CAP_SYS_PTRACE", join(*at, "connection"), "to see which taps other users' processes hold", mirror)
    if isinstance(end, ContainerSource):
        for capability in ("CAP_SYS_ADMIN", "CAP_SYS_PTRACE"):
            yield Need(capability, join(*at, "nic"), "a NIC that has no end on the host", mirror, perhaps=True)
    if isinstance(end, ContainerSource) and is_cache(end.engine) and not os.access(end.engine, os.R_OK | os.X_OK):
        yield Need("CAP_DAC_READ_SEARCH", join(*at, "engine"), f"to read {end.engine}", mirror)


def _of_files(path: str, config: Config) -> Iterator[Need]:
    """Files that the calling thread may not use as the user that it runs as."""
    daemon = config.daemon
    uses = [
        ("", "", path, os.R_OK),
        *(("", "daemon.include", _fixed(pattern), os.R_OK | os.X_OK) for pattern in daemon.include),
        ("", "daemon.state", daemon.state, os.R_OK | os.W_OK),
        ("", "daemon.state", str(Path(daemon.state).parent), os.W_OK | os.X_OK),
        ("", "daemon.socket", str(Path(daemon.socket).parent), os.W_OK | os.X_OK),
        *(
            (name, join("mirrors", name, "sessions", index, "destination", "path"), directory, os.W_OK | os.X_OK)
            for name, mirror in config.mirrors.items()
            for index, session in enumerate(mirror.sessions)
            if isinstance(session.destination, FileDestination)
            for directory in daemon.capture_directories
            if Path(directory) in Path(session.destination.path).parents
        ),
        *(
            (name, join("mirrors", name, "sessions", index, "destination", "tls", key), file, os.R_OK)
            for name, mirror in config.mirrors.items()
            for index, session in enumerate(mirror.sessions)
            if isinstance(session.destination, PcapDestination) and session.destination.tls is not None
            for key, file in session.destination.tls.model_dump(exclude={"server_name"}, exclude_none=True).items()
        ),
    ]
    for mirror, at, file, mode in uses:
        if _barred(file, mode):
            for capability in FILES:
                yield Need(capability, at, f"to use {file}, which belongs to another user,", mirror)


def _fixed(pattern: str) -> str:
    """The directory above the first part of a pattern that may match several."""
    path = Path(pattern)
    while has_magic(str(path)):
        path = path.parent
    return str(path)


def _barred(file: str, mode: int) -> bool:
    """Whether rights alone keep the calling thread from using a file; if it is not there, from making or finding it."""
    path = Path(file)
    while not os.path.lexists(path) and path != path.parent:
        path, mode = path.parent, mode & os.W_OK | os.X_OK
    read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    return not (read_only or os.access(path, mode, effective_ids=True))


# --- the kernel's side ---


def _drop(kept: Collection[str]) -> None:
    """Give up all but `kept`, for good: no program that is started gets them either."""
    for number in range(64):
        if number >= len(NAMES) or NAMES[number] not in kept:
            _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)  # EPERM without CAP_SETPCAP, EINVAL for what there is not
    _set(kept, kept)


def _set(permitted: Collection[str], effective: Collection[str]) -> None:
    """The calling thread's capabilities; none is inherited. What the kernel refuses stays as it was."""
    words = (_Words * 2)()
    for number, name in enumerate(NAMES):
        word, bit = words[number // 32], 1 << number % 32
        word.permitted |= bit if name in permitted else 0
        word.effective |= bit if name in effective else 0
    _libc.capset(ctypes.byref(_Header(VERSION_3, 0)), ctypes.byref(words))
