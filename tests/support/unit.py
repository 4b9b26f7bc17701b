"""What a systemd unit promises, and a command run under it without systemd.

Run as a program, it confines itself by the unit's system calls and address families, then becomes the command:
`python unit.py UNIT... -- COMMAND...`. The kernel then answers as it does under systemd (systemd.exec(5)).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ALLOW, ERRNO = 0x7FFF0000, 0x00050000  # linux/seccomp.h
LESS, EQUAL, GREATER, MASKED = 1, 4, 6, 7  # seccomp.h, enum scmp_compare
PROT_WRITE, PROT_EXEC = 2, 4
NAMESPACES = {  # linux/sched.h, CLONE_NEW...
    "mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000,
    "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000,
}  # fmt: skip


class Unit:
    """The settings of a unit file and its drop-ins: each a list of its lines' values, in order."""

    def __init__(self, *paths: Path) -> None:
        text = "\n".join(path.read_text() for path in paths)
        lines = [line.partition("=") for line in text.splitlines() if re.match(r"\w+=", line)]
        self.settings = {key: [value for other, _, value in lines if other == key] for key, _, _ in lines}

    def words(self, key: str) -> list[str]:
        """All of a setting's words."""
        return [word for value in self.settings.get(key, []) for word in value.split()]

    def system_calls(self) -> set[str]:
        """Those that its filter lets through."""
        allowed = _members(["@default"])  # always
        for value in self.settings["SystemCallFilter"]:
            if value.startswith("~"):
                allowed -= _members(value[1:].split())
            else:
                allowed |= _members(value.split())
        return allowed

    def setpriv(self, user: int) -> list[str]:
        """The words that make a command run as this user, with the unit's capabilities and no others."""
        names = [word.removeprefix("CAP_").lower() for word in self.words("AmbientCapabilities")]
        bounding = [word.removeprefix("CAP_").lower() for word in self.words("CapabilityBoundingSet")]
        return [
            "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs",
            "--bounding-set=" + ",".join(["-all", *(f"+{name}" for name in bounding)]),
            "--inh-caps=" + ",".join(["-all", *(f"+{name}" for name in names)]),
            "--ambient-caps=" + ",".join(["-all", *(f"+{name}" for name in names)]),
        ]  # fmt: skip


def _members(names: Iterable[str]) -> set[str]:
    found = set()
    for name in names:
        if name.startswith("@"):
            listed = subprocess.run(
                ["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True
            ).stdout
            words = [line.strip() for line in listed.splitlines()[1:]]
            found |= _members(word for word in words if word and not word.startswith("#"))
        else:
            found.add(name)
    return found


class _Comparison(ctypes.Structure):
    _fields_ = (("argument", ctypes.c_uint), ("by", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Filter:
    """A seccomp filter (libseccomp): what happens to system calls that no rule names."""

    def __init__(self, otherwise: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(otherwise)))

    def rule(self, action: int, name: str, *comparisons: tuple[int, int, int, int]) -> None:
        """What happens to this call when the comparisons (argument, by, a, b) hold; a call unknown here is left out."""
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            array = (_Comparison * len(comparisons))(*(_Comparison(*each) for each in comparisons))
            add = self._library.seccomp_rule_add_array
            _done(add(self._context, ctypes.c_uint32(action), number, len(comparisons), array), name)

    def load(self) -> None:
        _done(self._library.seccomp_load(self._context), "seccomp_load")


def _done(result: int, what: str) -> None:
    if result:
        raise OSError(-result, os.strerror(-result), what)


def confine(unit: Unit) -> None:
    """Put this process, for good, under the unit's system calls, address families, memory and namespace rules."""
    calls = unit.system_calls()
    denied = ERRNO | getattr(errno, unit.settings["SystemCallErrorNumber"][0])
    narrow = Filter(ALLOW)
    families = sorted(int(getattr(socket, name)) for name in unit.words("RestrictAddressFamilies"))
    for family in set(range(families[-1])).difference(families):
        narrow.rule(ERRNO | errno.EAFNOSUPPORT, "socket", (0, EQUAL, family, 0))
    narrow.rule(ERRNO | errno.EAFNOSUPPORT, "socket", (0, GREATER, families[-1], 0))
    if unit.words("MemoryDenyWriteExecute") == ["yes"]:
        both = PROT_WRITE | PROT_EXEC
        narrow.rule(denied, "mmap", (2, MASKED, both, both))
        for name in ("mprotect", "pkey_mprotect"):
            narrow.rule(denied, name, (2, MASKED, PROT_EXEC, PROT_EXEC))
    if "yes" in unit.words("RestrictNamespaces"):
        narrow.rule(ERRNO | errno.ENOSYS, "clone3")  # its flags are out of a filter's sight
        narrow.rule(denied, "setns", (1, EQUAL, 0, 0))  # any kind
        for name in NAMESPACES.keys() - unit.words("RestrictNamespaces"):
            for call, argument in (("unshare", 0), ("clone", 0), ("setns", 1)):
                narrow.rule(denied, call, (argument, MASKED, NAMESPACES[name], NAMESPACES[name]))
    narrow.load()
    broad = Filter(denied)
    for name in calls:
        broad.rule(ALLOW, name)
    broad.load()


if __name__ == "__main__":
    end = sys.argv.index("--")
    confine(Unit(*map(Path, sys.argv[1:end])))
    os.execvp(sys.argv[end + 1], sys.argv[end + 1 :])
