"""Mixed traffic out of a device, exact in number."""

from __future__ import annotations

import time

from tests.support.mixture import mixture
from tests.support.offload import Offloader
from tests.support.topology import Host

RATE = 400  # frames a second


class Traffic:
    """Plain frames, super-frames and fragments in turn, out of tap0. `sent` is their number."""

    def __init__(self, host: Host) -> None:
        self.sent = 0
        self._frames = list(mixture())
        self._out = Offloader(host, "tap0")

    def send_some(self) -> None:
        """A twentieth of a second's worth."""
        for _ in range(RATE // 20):
            self._out.send(self._frames[self.sent % len(self._frames)].given)
            self.sent += 1
        time.sleep(0.05)
