"""The bound on rings, tables and recorders, and the host's own."""

from __future__ import annotations

import os

from mirrord.dataplane.memory import Memory


def test_without_a_limit_the_host_is_one() -> None:
    memory = Memory()
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    assert not memory.take(installed // 4 + 1)
    assert memory.take(1 << 20)
    assert memory.taken == 1 << 20
