"""The process's resource limits, looked after before anything runs into them."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from mirrord.errors import HostError, of_host

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # <malloc.h>
ARENAS = 2
LARGE = 1 << 20
SWITCH_SECONDS = 0.0005


def keep_little_memory() -> None:
    """Have the C library give back what was freed (mallopt(3)). Before the first thread starts.

    By itself glibc makes up to eight arenas a processor, and each keeps the holes that its threads left: 280 MB after
    half an hour of sessions and clients that came and went. Python allocates under one lock, so two arenas hinder
    nobody. A block of a MiB is a mapping of its own, which ends when it is freed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none, and no arenas
        mallopt(M_ARENA_MAX, ARENAS)
        mallopt(M_MMAP_THRESHOLD, LARGE)


def switch_often() -> None:
    """Have a thread of Python keep others waiting for less than a millisecond, not for 5 ms: that shows in the latency
    of copies, and in an answer, which waits for each of its steps.
    """
    sys.setswitchinterval(SWITCH_SECONDS)


def look_for_garbage_seldom() -> None:
    """Have Python look for garbage in cycles when 10,000 objects more are there, not 700: there is hardly any.

    A plan of 5,000 sessions was gone through 150 times while it was made, and all that the process has every second
    time, for 50 to 130 ms each, in which no thread runs. What has outlived one look is looked at with what comes after
    three more, not ten, since that takes 4 to 10 ms and not 12 to 36; all that there is, as seldom as before.
    """
    gc.set_threshold(10_000, 3, 30)


class Lasting:
    """Keeps what sessions are made of out of the looks for garbage, once there are many more: it stays until a change
    takes it away, and to look through what 5,000 are made of takes 200 ms, in which no thread runs.

    Garbage that is there at that moment stays for good, which is why it is not done with each change: after 5,000
    sessions were made, and changed some times, it was 20 objects.
    """

    MANY = 250

    def __init__(self) -> None:
        self._sessions = 0

    def look(self, sessions: int) -> None:
        """There are so many now."""
        if sessions >= 1.25 * self._sessions + self.MANY:
            gc.freeze()
        elif 2 * sessions >= self._sessions:
            return
        self._sessions = sessions


def give_back() -> None:
    """Give the system the pages that are free between blocks in use (malloc_trim(3)), on any thread.

    After changes among 1,000 sessions that is 2 MB, in half a millisecond.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def raise_descriptors() -> None:
    """Allow as many descriptors as the host lets us have: a UDP destination alone has dozens."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def started(count: int, name: str) -> ThreadPoolExecutor:
    """A pool whose threads run already, so that no job fails later for want of one. HostError.

    A pool that cannot start a thread for a job tells so and keeps the job for the next thread: it is done all the same.
    """
    pool, all_there = ThreadPoolExecutor(count, thread_name_prefix=name), threading.Barrier(count + 1)
    try:
        for _ in range(count):
            pool.submit(all_there.wait)
    except RuntimeError as error:
        all_there.abort()
        pool.shutdown(wait=False, cancel_futures=True)
        raise of_host(error) or error from error
    all_there.wait()
    return pool


def require_nice(nice: int) -> None:
    """HostError when the workers may not have this priority (setpriority(2)). Tried by a thread that ends here.

    0 asks for nothing: the workers have the process's own.
    """
    if not nice:
        return
    with ThreadPoolExecutor(max_workers=1) as thread:
        try:
            thread.submit(os.setpriority, os.PRIO_PROCESS, 0, nice).result()
        except PermissionError as error:
            message = f"{nice} is not allowed: needs CAP_SYS_NICE, or LimitNICE={nice} in the systemd unit"
            raise HostError("no_privilege", message, "daemon.nice") from error
