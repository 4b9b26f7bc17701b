"""The process's resource limits, by what the C library and the kernel say of them."""

from __future__ import annotations

import re
import subprocess
import sys

THREADS = 8
ALLOCATE = f"""
import ctypes, threading
from mirrord.control import limits
limits.keep_little_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
met = threading.Barrier({THREADS})
def work():
    met.wait()
    blocks = [libc.malloc(100_000) for _ in range(100)]
    met.wait()
threads = [threading.Thread(target=work) for _ in range({THREADS})]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


def test_threads_share_two_arenas() -> None:
    said = subprocess.run([sys.executable, "-c", ALLOCATE], capture_output=True, text=True, check=True).stdout
    assert re.findall(r'<heap nr="(\d+)">', said) == ["0", "1"]  # malloc_info(3)
