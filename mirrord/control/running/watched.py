"""One collector over time: why it is taken for dead, and when it is taken for alive again. Pure: the clock comes in.

Times are monotonic, in seconds.
"""

from __future__ import annotations

from mirrord.control.host.view import Collector, Silence
from mirrord.control.logs import logger

log = logger("liveness")

ASK_SECONDS = 1.0
"""How often one that is to be asked is asked, as long as it answers."""

ANSWER_SECONDS, CONNECT_SECONDS = 0.3, 0.5
"""How long an answer, or a connection, is waited for before it is asked again. A later answer counts, too."""

MISSES = 3
"""So many unanswered questions in a row are a reason: a loss or two happen."""

HEARD_SECONDS = 3.0
"""How long what ICMP said is believed: routers repeat it each second, while there are copies to say it of."""

LEAST_SECONDS, LONGEST_SECONDS = 5.0, 60.0
"""How long there must have been no reason: twice as long each time that it died again soon."""

SOON_SECONDS = 60.0


class Watched:
    """`stopped` is why the host cannot send there; `device`, the one that questions have to leave by, or ""."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self.stopped = self.device = ""
        self._reason = ""  # why it is taken for dead; "" while it is not
        self._well_since: float | None = None  # of one that is dead: since when there is no reason any more
        self._hold = LEAST_SECONDS
        self._back_at = float("-inf")
        self._heard = ("", float("-inf"))
        self._asks = collector.liveness == "icmp" or collector.liveness.startswith("tcp:")
        self.patience = ANSWER_SECONDS if collector.liveness == "icmp" else CONNECT_SECONDS
        self._waiting = False  # for an answer
        self._next = float("-inf")  # when to ask again, or to miss the answer
        self._missed, self._why_missed = 0, ""
        self._told: Silence | None = None

    # --- questions ---

    def due(self, now: float) -> bool:
        """Whether it is to be asked now. An answer that is not there by now is missed."""
        if not self._asks or now < self._next:
            return False
        if self._waiting:
            self._miss(now)
        return now >= self._next

    def asked(self, now: float) -> None:
        """It was asked: the answer has so long."""
        self._waiting, self._next = True, now + self.patience

    def answered(self, now: float) -> None:
        """It is there."""
        self._waiting, self._missed, self._next = False, 0, now + ASK_SECONDS

    def refused(self, why: str, now: float) -> None:
        """It, or this host, said no."""
        self._why_missed = why
        self._waiting = False
        self._count_miss()
        self._next = now + (ASK_SECONDS if self._missed >= MISSES else self.patience)

    def _miss(self, now: float) -> None:
        self._why_missed = "it does not answer"
        self._waiting = False
        self._count_miss()
        if self._missed > MISSES:  # it is known: it is asked at leisure
            self._next = now + ASK_SECONDS - self.patience

    def _count_miss(self) -> None:
        self._missed += 1

    # --- judgement ---

    def hear(self, what: str, now: float) -> None:
        """ICMP said that copies do not get there."""
        self._heard = what, now

    def judge(self, now: float) -> None:
        """Decide whether it is dead."""
        reason = self._trouble(now)
        if reason:
            if not self._reason:
                soon = now - self._back_at < SOON_SECONDS
                self._hold = min(2 * self._hold, LONGEST_SECONDS) if soon else LEAST_SECONDS
                self._say(reason)
            self._reason, self._well_since = reason, None
        elif self._reason:
            self._well_since = now if self._well_since is None else self._well_since
            if now - self._well_since >= self._hold:
                self._reason, self._well_since, self._back_at = "", None, now

    def _say(self, reason: str) -> None:
        """Log it; of what keeps copies here, each session tells."""
        if reason != self.stopped:
            log.warning("a collector is taken for dead", collector=self.collector.path.remote, reason=reason)

    def _trouble(self, now: float) -> str:
        what, at = self._heard
        if self.stopped:
            return self.stopped
        if now - at < HEARD_SECONDS:
            return what
        return self._why_missed if self._missed >= MISSES else ""

    @property
    def silence(self) -> Silence | None:
        """What there is to say; None while it is alive."""
        if not self._reason:
            return None
        if self._well_since is None:
            return Silence(self._reason)
        return Silence(f"it was dead some seconds ago: {self._reason}", over=True)

    @property
    def news(self) -> bool:
        """Whether that has changed since it was told."""
        return self.silence != self._told

    def tell(self) -> Silence | None:
        """What there is to say, which is told by that."""
        self._told = self.silence
        return self._told

    @property
    def waits(self) -> bool:
        """Whether time alone changes something."""
        return self._asks or bool(self._reason)
