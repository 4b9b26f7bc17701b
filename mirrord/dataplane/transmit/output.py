"""Blocks that are written one after the other, to a file or into a pipe, by either data plane."""

from __future__ import annotations

import ctypes
import errno
import os


class Output(ctypes.Structure):
    """Where blocks go now. The native core has the same memory, and writes there itself (struct output)."""

    descriptor: int
    error: int  # errno: why nothing is written; 0: it is
    written: int  # bytes in the file, whole blocks all of them
    start: int  # bytes before its first packet
    limit: int  # bytes that it may have; 0: any

    _fields_ = (
        ("descriptor", ctypes.c_int64),
        ("error", ctypes.c_int64),
        ("written", ctypes.c_int64),
        ("start", ctypes.c_int64),
        ("limit", ctypes.c_int64),
    )


def write_all(descriptor: int, block: bytes) -> tuple[int, int]:
    """Write a block, however often that is interrupted (write(2): a short count is no failure yet).

    How many bytes were written, and the errno for why not all of them, or 0.
    """
    done = 0
    while done < len(block):
        try:
            some = os.write(descriptor, block[done:] if done else block)
        except OSError as error:
            return done, error.errno or errno.EIO
        if not some:
            return done, errno.ENOSPC
        done += some
    return done, 0
