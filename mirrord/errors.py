"""Every error that mirrord raises on purpose. What is not in this tree is a bug, and ends as one.

MirrordError            code, message, path: what the API answers with
+-- ConfigError         "invalid_config", "refused": all problems of all files, not only the first
+-- Refused             "refused": well-formed, but section 2 of the design forbids it
+-- HostError           the host lacks it; the code says what: "no_privilege", "no_device", "address_in_use", ...

Codes are stable: programs may test them. Messages are for people and may change.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

NAMED_AT_MOST = 4


def nearest(name: str, known: Iterable[str]) -> str:
    """Hint at the known name that looks most like this one; "" if none does."""
    import difflib  # noqa: PLC0415 (it takes longer than all of the above, and few need it)

    names = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), list(names), n=1)
    return f"; did you mean {names[close[0]]!r}?" if close else ""


def of_any(text: str, device: str) -> str:
    """What is said of a source's device, as it may be said of others."""
    return re.sub(rf"(?<![\w.-]){re.escape(device)}(?![\w.-])", "the source", text)


def some(names: Sequence[str]) -> str:
    """Names for a message, of many the first few and how many more there are."""
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names if more <= 1 else [*names[:NAMED_AT_MOST], f"and {more} more"])


def reason(error: OSError) -> str:
    """The kernel's word for why, and what to do where that is not to be seen from it."""
    words = error.strerror or str(error)
    if error.errno == errno.EROFS:
        words += ": under systemd the unit has to allow the directory (systemctl edit mirrord, ReadWritePaths=)"
    return words


def at_address(error: OSError) -> str:
    """Why an address is not to be had or reached, without the address: asyncio and socket put it in brackets behind."""
    words = error.strerror or str(error)
    if "(" in words and error.errno is not None and error.errno > 0:  # getaddrinfo's are below
        return os.strerror(error.errno)
    return words


class Problem(NamedTuple):
    """One thing wrong in the configuration, or worth a warning."""

    path: str  # dotted: mirrors.core.sessions[0].destination.vni; "" for a whole file
    expectation: str  # what was expected, and what stood there instead
    file: str = ""  # "" for what came through the API
    line: int = 0  # 0 where it is not known

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.file, self.path, self.expectation) if part)
        return f"{text} (line {self.line})" if self.line else text


class MirrordError(Exception):
    """`code` is stable, `message` is one line, `path` says what in the configuration is meant ("" if nothing is)."""

    exit_status: ClassVar[int] = 1

    def __init__(self, code: str, message: str, path: str = "") -> None:
        super().__init__(code, message, path)
        self.code = code
        self.message = message
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(MirrordError):
    """The configuration cannot be used. `problems` holds at least one; the text is one line for each.

    The code is "refused" where each of them is well-formed and would do harm.
    """

    exit_status = 2

    def __init__(self, problems: Iterable[Problem], code: str = "invalid_config") -> None:
        self.problems = tuple(problems)
        super().__init__(code, "\n".join(map(str, self.problems)), self.problems[0].path)

    def __str__(self) -> str:
        return self.message


class Refused(MirrordError):  # noqa: N818 -- a refusal is an answer, not a fault
    """What was asked for is well-formed and would do harm. `about` and `remedy` are the code and the remedy of the
    finding that it is, where it has its own.
    """

    def __init__(self, message: str, path: str = "", *, about: str = "", remedy: str = "") -> None:
        super().__init__("refused", message, path)
        self.about, self.remedy = about, remedy


class HostError(MirrordError):
    """The host does not have, or does not let us have, what the configuration needs."""


GONE = frozenset({errno.ENODEV, errno.ENXIO, errno.ENETDOWN})
"""What the kernel answers about a device that went since the host was looked at: there is news of it already."""

_LACKS = {
    errno.EMFILE: "too many files are open in mirrord (LimitNOFILE= of its unit, ulimit -n)",
    errno.ENFILE: "too many files are open on this host (fs.file-max)",
    errno.ENOMEM: "there is no memory left",
    errno.ENOBUFS: "there is no memory left for sockets",
}


def internal(error: BaseException) -> str:
    """What is shown of an error that nobody foresaw; the log has its traceback."""
    return f"internal error: {type(error).__name__}: {error}"


def of_host(error: Exception) -> MirrordError | None:
    """What an error says about the host, of a system call or for want of threads; None: it is another's, or a bug.

    The code is `no_resources` where the same may go well later, else `host_error`.
    """
    if isinstance(error, OSError):
        if error.errno in _LACKS:
            return HostError("no_resources", f"{_LACKS[error.errno]}; try again later")
        return HostError("host_error", str(error.strerror or error))
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):  # of threading.Thread.start
        return HostError("no_resources", "no more threads can be started (TasksMax= of its unit); try again later")
    if isinstance(error, MemoryError):
        return HostError("no_resources", f"{_LACKS[errno.ENOMEM]}; try again later")
    return None
