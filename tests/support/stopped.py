"""A thread held wherever it is, while the others of its process go on (ptrace(2)): as if the kernel kept it waiting."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 17, 0x4206, 0x4207, 0x40000000  # linux/ptrace.h, linux/wait.h


@contextmanager
def stopped(thread: int) -> Iterator[None]:
    """Hold it until the block ends, or it does; see `ended`."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    assert libc.ptrace(PTRACE_SEIZE, thread, None, None) == 0, os.strerror(ctypes.get_errno())
    assert libc.ptrace(PTRACE_INTERRUPT, thread, None, None) == 0, os.strerror(ctypes.get_errno())
    os.waitpid(thread, WALL)
    try:
        yield
    finally:
        if Path(f"/proc/{thread}").exists():
            assert libc.ptrace(PTRACE_DETACH, thread, None, None) == 0, os.strerror(ctypes.get_errno())


def ended(thread: int) -> bool:
    """Whether a thread that is held has ended. Its process cannot before this was asked."""
    with suppress(ChildProcessError):
        return os.waitpid(thread, WALL | os.WNOHANG)[0] == thread
    return True


def niced(pid: int, nice: int) -> set[int]:
    """The ids of the threads of a process that have this priority: a worker's, which the daemon is told."""
    tasks = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    return {task for task in tasks if os.getpriority(os.PRIO_PROCESS, task) == nice}
