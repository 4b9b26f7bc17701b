"""What runs a filter's program, and what it may ask of beside a frame's bytes."""

from __future__ import annotations

import socket

from hypothesis import strategies as st

from mirrord.dataplane.filter.assembler import Instruction, Program
from mirrord.dataplane.frame.headers import Tag
from tests.support.interpreter import interpret
from tests.support.selections import MARK

METADATA = st.tuples(
    st.none() | st.builds(Tag, st.sampled_from([0x8100, 0x88A8]), st.sampled_from([0, 5, 0x1005, 0xE06F])),
    st.booleans(),
    st.sampled_from([0, MARK, MARK | 1]),
)
"""A tag that the kernel took off, whether the host sent the frame, and its mark."""


class Pair:
    """A pair of Unix datagram sockets: the kernel runs a filter on any bytes sent to it, without metadata."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.far.setblocking(False)

    def kept(self, data: bytes) -> bytes | None:
        """What is left of the bytes; None where the filter takes nothing."""
        self.near.send(data)
        try:
            return self.far.recv(65536)
        except BlockingIOError:
            return None

    def passes(self, data: bytes) -> bool:
        return self.kept(data) == data

    def close(self) -> None:
        self.near.close()
        self.far.close()


def ran(program: Program, data: bytes) -> list[Instruction]:
    """The instructions that it runs."""
    those: list[Instruction] = []

    class Watched(tuple[Instruction, ...]):
        __slots__ = ()

        def __getitem__(self, at: int) -> Instruction:  # type: ignore[override]
            those.append(tuple.__getitem__(self, at))
            return those[-1]

    interpret(Watched(program), data)
    return those


def steps(program: Program, data: bytes) -> int:
    """How many instructions it runs."""
    return len(ran(program, data))
