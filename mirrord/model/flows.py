"""How much of each flow a session mirrors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from mirrord.model.base import Model
from mirrord.values.quantities import Idle, PositiveSize
from mirrord.values.written import Between

MOST_FLOWS = 1 << 24


class FlowLimit(Model):
    """The first of each flow is mirrored whole, by `packets`, `bytes` or both: what comes first ends it."""

    packets: Annotated[int, Between(1, (1 << 31) - 1)] | None = None
    """Of both directions together; a super-frame counts as the packets that it is split into. Left out: any number."""
    bytes: PositiveSize | None = None
    """Of both directions together, as `mirrord_read_bytes_total` counts. Left out: any number. The frame in which
    either limit falls is mirrored whole."""
    then: Literal["skip", "headers"] = "skip"
    """What becomes of the rest: `skip`, it is not mirrored; `headers`, it is cut as by `snaplen = "headers"`, so that a
    sensor keeps its counts and the state of TCP. TCP frames with SYN, FIN or RST are mirrored whole."""
    idle: Idle = 60_000_000_000
    """A flow of which nothing came for so long is forgotten; one that comes again starts anew."""
    flows: Annotated[int, Between(1, MOST_FLOWS)] = 65536
    """How many flows are known at a time, by each worker and source, at most 88 bytes each. What finds no place is
    mirrored whole, and counted as `mirrord_flow_table_full_total`."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        if self.packets is None and self.bytes is None:
            yield "packets", "a limit by packets, by bytes or by both is needed"
