"""Tell systemd how the daemon does (sd_notify(3)); without systemd, nothing happens."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

PATIENCE_SECONDS = 0.1
"""How long a manager that does not take its messages may hold up the daemon: its queue is short, unix(7)."""


def notify(*messages: str) -> None:
    """Send lines such as `READY=1` to the manager, if there is one; one that does not listen is no reason to stop."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract address, unix(7)
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE_SECONDS)
        manager.sendto("\n".join(messages).encode(), address)


def reloading() -> None:
    """Announce a reload; `READY=1` ends it. The stamp lets a newer systemd match it to its own request."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_seconds() -> float:
    """The time within which the manager wants `WATCHDOG=1` again; 0 when it does not."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
