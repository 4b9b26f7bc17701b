"""When there is too much: fewer conversations, each of them whole, in place of holes in all of them.

The sampling rate in force is the planned one times two to the level. What is sampled is told by the conversation's hash
modulo the rate, so that what is in at a level is in at every lower one, too: as the level rises, conversations leave,
and those that stay never miss a frame.

So it has to rise before anything is lost. A bucket of a limit (of 100 ms, where conversations give way) tells in time:
the level rises when it is less than three quarters full, and again with each sixteenth that it loses from there on. By
the time that it has halved six times less is mirrored, with most of the bucket left. It rises, too, when a frame had to
be refused all the same, and when the ring was found half full. What the destination's link tells, the control plane
sees, and sets the least level.

It falls by one when nothing has made it rise for a while, and twice as much as now would leave a fifth of each limit
unused. If it has to rise again soon, it waits longer the next time.

Times are those of capture. One for each session and source, whichever workers divide it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mirrord.dataplane.frame.wire import CLOCK_STEP_NANOSECONDS

MOST = 16
"""The highest level; 1 in 65,536 conversations."""

LARGEST_RATE = (1 << 32) - 1
"""What a conversation's 32 bits are sampled by at most."""

PERIOD = 1_000_000_000
"""How often it is looked whether the level may fall, in nanoseconds; so are these."""

LEAST_HOLD, LONGEST_HOLD = 5_000_000_000, 60_000_000_000
SOON = 60_000_000_000
PAUSE = 50_000_000
"""A level has so long to show what it does, before what is not a bucket raises it further."""


@dataclass(slots=True)
class Thinning:
    """The level, and what it goes by. Bits and packets are in a bucket's unit: nanoseconds times a rate."""

    level: int = 0
    pressed: bool = False  # the ring was found half full
    raised: int = 0  # when it last rose
    fell: int = 0  # when it last fell, and did not rise since; or 0
    hold: int = LEAST_HOLD
    began: int = 0  # the period
    used: list[int] = field(default_factory=lambda: [0, 0])  # of each bucket, in the period
    marks: list[int] = field(default_factory=lambda: [0, 0])  # below which it rises

    def rate(self, planned: int, least: int) -> int:
        """The sampling rate in force."""
        level = max(self.level, least)
        while planned << level > LARGEST_RATE:
            level -= 1
        return planned << level

    def tick(self, time: int, rates: tuple[int, int]) -> None:
        """A frame was captured at this time. `rates`: of the limits, in bits and packets a second; 0: none."""
        if self.pressed:
            self.pressed = False
            self._rise_again(time)
        elapsed = time - self.began
        if -CLOCK_STEP_NANOSECONDS <= elapsed < PERIOD:
            return
        if elapsed > 0 and self.level and time - self.raised >= self.hold and self._fits(rates, elapsed):
            self.level -= min(self.level, elapsed // PERIOD)
            self.fell = time
        if elapsed < 0:  # the clock was set
            self.raised = time
        self.began, self.used = time, [0, 0]

    def see(self, bucket: int, tokens: int, depth: int, time: int) -> None:
        """What is in a bucket, of what it can hold."""
        high = depth * 3 // 4
        if tokens >= high:
            self.marks[bucket] = high
        elif tokens < self.marks[bucket]:
            self._rise(time)
            self.marks[bucket] = tokens - depth // 16

    def refused(self, time: int) -> None:
        """A limit has left a frame out."""
        self._rise_again(time)

    def take(self, bucket: int, tokens: int) -> None:
        """So much of a bucket is used."""
        self.used[bucket] += tokens

    def _fits(self, rates: tuple[int, int], elapsed: int) -> bool:
        return all(used * 5 <= rate * elapsed * 2 for used, rate in zip(self.used, rates, strict=True) if rate)

    def _rise_again(self, time: int) -> None:
        if time - self.raised >= PAUSE:
            self._rise(time)

    def _rise(self, time: int) -> None:
        self.level = min(self.level + 1, MOST)
        if self.fell:
            self.hold = min(2 * self.hold, LONGEST_HOLD) if time - self.fell < SOON else LEAST_HOLD
            self.fell = 0
        self.raised = time
