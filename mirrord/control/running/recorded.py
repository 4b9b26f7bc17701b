"""What a flight recorder holds, as a pcapng stream; and, if wanted, what it gets from then on.

Both are read out of the same ring, block after block, so that nothing is missing between them and nothing is there
twice. A reader that is overtaken by new frames is told how many it missed, in a statistics block.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from mirrord import __version__
from mirrord.control.planning.plan import Key
from mirrord.dataplane.transmit import pcapng
from mirrord.dataplane.transmit.recorder import Recorder

LOOK_SECONDS = 0.05
"""How often it is looked for new frames."""

CHUNK = 1 << 20
EVERYTHING = (1 << 64) - 1


class Recorded:
    """The stream of the frames of the last `seconds`, from the first that is no older on. With `follow` it goes on
    until the session keeps no frames any more, or others of another size.
    """

    def __init__(self, key: Key, recorder: Recorder, seconds: float, *, follow: bool) -> None:
        self._key, self._recorder, self._follow = key, recorder, follow
        self._ring = recorder.ring
        self._since = time.time_ns() - int(seconds * 1e9)

    async def read(self, gone: Callable[[], bool]) -> AsyncIterator[bytes]:
        """The stream as it comes, until its end, or until the reader is `gone`."""
        ring = self._ring
        if ring is None:
            return
        comment = f"mirror {self._key.mirror}, session {self._key.session}"
        header = pcapng.section(f"mirrord {__version__}", comment)
        yield header + pcapng.interface(self._key.source, 0, comment, raw=ring.raw)
        end = EVERYTHING if self._follow else ring.head
        lost, begun = 0, False
        found = await asyncio.to_thread(ring.read, 0, end, CHUNK)
        number = found.before  # of the next packet
        while not gone():
            if found.before > number:
                lost += found.before - number
                yield pcapng.statistics(time.time_ns(), lost)
                number = found.before
            number += found.packets
            blocks = found.blocks if begun else await asyncio.to_thread(pcapng.since, found.blocks, self._since)
            begun = begun or bool(blocks)
            if blocks:
                yield blocks
            elif not found.packets:
                if not self._follow or self._recorder.ring is not ring:
                    return
                await asyncio.sleep(LOOK_SECONDS)
            found = await asyncio.to_thread(ring.read, found.end, end, CHUNK)

    def close(self) -> None:
        """There is nothing that stays open."""
