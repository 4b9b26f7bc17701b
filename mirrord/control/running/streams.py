"""The far ends of sessions' streams (pcap over TCP): there while the session is planned, whether it runs or not."""

from __future__ import annotations

from collections.abc import Mapping

from mirrord.control.logs import logger
from mirrord.control.planning.plan import Entry, Key
from mirrord.dataplane.memory import Memory
from mirrord.dataplane.transmit.pcap_end import Ends, PcapEnd
from mirrord.plans import PcapPlan, StreamEnd

log = logger("pipelines")


class Streams:
    """`keep` may block for a second for each end that goes; the rest answers at once, on any thread."""

    def __init__(self, memory: Memory) -> None:
        self.ends = Ends(memory)
        self._plans: dict[tuple[str, str], StreamEnd] = {}  # by mirror and session

    def keep(self, entries: Mapping[Key, Entry]) -> None:
        """Have those of these sessions, and end the others. A session whose source is not there keeps its clients."""
        planned: dict[tuple[str, str], StreamEnd] = {}
        for key, entry in entries.items():
            way = entry.pipeline.transmit if entry.pipeline is not None else None
            if isinstance(way, PcapPlan):
                planned[key[:2]] = way.end
            elif entry.pipeline is None and key[:2] in self._plans:
                planned.setdefault(key[:2], self._plans[key[:2]])
        self._plans = planned
        self._keep(set(planned.values()))

    def moved(self) -> bool:
        """Log who came and went; whether a session may begin, or has to wait, for it."""
        ends = self.ends.all()
        for end in ends:
            _say_events(end)
        moved = [end.moved() for end in ends]  # each is to be asked
        return any(moved)

    def close(self) -> None:
        """End all."""
        self._keep(set())

    def _keep(self, plans: set[StreamEnd]) -> None:
        for ended in self.ends.keep(plans, _lacking):
            _say_events(ended)


def _say_events(end: PcapEnd) -> None:
    while end.events:
        event, about = end.events.popleft()
        say = log.warning if event == "client refused" else log.info
        say(event, stream=end.plan.comment, **about)


def _lacking(end: StreamEnd, error: Exception) -> None:
    log.error("a stream's end cannot be opened", stream=end.comment, reason=str(error))
