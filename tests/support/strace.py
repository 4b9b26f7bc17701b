"""Faults that strace injects into a daemon's system calls, strace(1) "Tampering"."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.daemon import Daemon


@contextmanager
def injected(daemon: Daemon, *options: str) -> Iterator[None]:
    """From when strace has attached to the daemon's threads until the block ends."""
    command = ["strace", "-f", "-p", str(daemon.pid), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        while "attached" not in (line := tracer.stderr.readline()):
            assert line, "strace ended"
        try:
            yield
        finally:
            tracer.terminate()
