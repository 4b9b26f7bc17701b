"""Many who connect to a server and say nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.topology import Host

MANY = 90


@contextmanager
def crowd(host: Host, at: Path | tuple[str, int]) -> Iterator[None]:
    """MANY connections to a socket's path, or to an address of a host; they end with the block."""
    with ExitStack() as there:
        for _ in range(MANY):
            family = socket.AF_UNIX if isinstance(at, Path) else socket.AF_INET
            one = there.enter_context(host.open_socket(family, socket.SOCK_STREAM))
            one.settimeout(20)
            one.connect(str(at) if isinstance(at, Path) else at)
        yield


def opened(pid: int) -> int:
    """How many descriptors a process has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
