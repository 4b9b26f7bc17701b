"""A control group for one process, of version 1 or 2, whichever the host has (cgroups(7), cgroup-v2.rst)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.wait import wait_for

ROOT = Path("/sys/fs/cgroup")
LIMITS = {"cpu": ("cpu.cfs_quota_us", "cpu.max"), "memory": ("memory.limit_in_bytes", "memory.max")}
LIMITS["pids"] = "pids.max", "pids.max"


@contextmanager
def limited(pid: int, controller: str, limit: int) -> Iterator[None]:
    """Bound a process: `cpu` in microseconds of each tenth of a second, `memory` in bytes of what it asks for from now
    on, `pids` in threads. Afterwards it is where it was, if it still lives.
    """
    old = ROOT / controller
    first = old.is_dir()
    parent = old if first else ROOT
    if not first:
        (ROOT / "cgroup.subtree_control").write_text(f"+{controller}")
    group = parent / f"mirrord-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / LIMITS[controller][not first]).write_text(str(limit))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with suppress(ProcessLookupError):
            (parent / "cgroup.procs").write_text(str(pid))
        wait_for(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()
