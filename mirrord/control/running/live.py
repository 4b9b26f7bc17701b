"""A live look at what a session mirrors, by a capture of its own: the session does not notice."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace

from mirrord.control.planning.plan import Key
from mirrord.dataplane.budget import Budget
from mirrord.dataplane.forward import encap
from mirrord.dataplane.forward.own_copies import NO_GUARDS, Guards
from mirrord.dataplane.memory import Memory
from mirrord.dataplane.pipeline import Pipeline
from mirrord.dataplane.tap import Tap
from mirrord.dataplane.worker import ANSWER_SECONDS, Worker
from mirrord.plans import CapturePlan, ForwardPlan, ListenPlan, PipelinePlan, StreamPlan

LOOK_SECONDS = 0.5
"""How often it is asked whether the reader is still there, when nothing comes."""

PIPE_SIZE = 1 << 20  # what an unprivileged process may ask for at most, pipe(7)


class Live:
    """A pcapng stream of the frames that this plan's session mirrors, to be read from `descriptor` until `close`.

    The frames are those of the session, sampled and cut as there, without its outer headers and its rate limit. What is
    limited by flow begins anew: flows that went on before count from the first frame that is seen here. Raises OSError
    when the source cannot be captured. Both calls block; `close` for half a second at most.
    """

    def __init__(
        self,
        key: Key,
        plan: PipelinePlan,
        *,
        native: bool,
        memory: Memory | None = None,
        budget: Budget | None = None,
        guards: Guards = NO_GUARDS,
    ) -> None:
        self.descriptor, end = os.pipe2(os.O_CLOEXEC)
        with suppress(OSError):  # the user's pipes have as many pages as they may: a smaller one does
            fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        comment = f"mirror {key.mirror}, session {key.session}"
        stripped = plan.forward.inside is not None and plan.forward.inside.strip  # what is inside are frames
        raw = isinstance(plan.capture, CapturePlan) and plan.capture.raw and not stripped
        try:
            self._pipeline = Pipeline(
                PipelinePlan(
                    _alone(plan.capture),
                    _as_packets(plan.forward, raw=raw),
                    StreamPlan(end, key.source, comment, plan.forward.snaplen, raw),
                ),
                native=native,
                memory=memory,
                guards=guards,
            )
        except BaseException:
            os.close(self.descriptor)
            raise
        try:
            tap = Tap([self._pipeline], native=native, memory=memory)
        except BaseException:
            self._pipeline.close()
            os.close(self.descriptor)
            raise
        try:
            self._worker = Worker("live", budget=budget)
            self._worker.start()
        except BaseException:
            tap.close()
            self._pipeline.close()
            os.close(self.descriptor)
            raise
        self._worker.add(tap)

    async def read(self, gone: Callable[[], bool]) -> AsyncIterator[bytes]:
        """The stream as it comes, until the source cannot be captured any more, or the reader is `gone`."""
        loop = asyncio.get_running_loop()
        os.set_blocking(self.descriptor, False)
        while not gone() and not self._pipeline.failure:
            ready = loop.create_future()
            loop.add_reader(self.descriptor, _settle, ready)
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await ready
            except TimeoutError:
                continue
            finally:
                loop.remove_reader(self.descriptor)
            yield os.read(self.descriptor, PIPE_SIZE)

    def close(self) -> None:
        """Stop. Nobody may read any more: a write that waits for the reader has to end."""
        os.close(self.descriptor)
        self._worker.stop(ANSWER_SECONDS)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _alone(capture: CapturePlan | ListenPlan) -> CapturePlan | ListenPlan:
    """One device is looked at, whichever others it is captured with."""
    return replace(capture, together=False) if isinstance(capture, CapturePlan) else capture


def _as_packets(forward: ForwardPlan, *, raw: bool) -> ForwardPlan:
    template = encap.packet_block()
    return ForwardPlan(
        template=template,
        overhead=-len(template.header),
        snaplen=forward.snaplen,
        payload=forward.payload,
        past_headers=forward.past_headers,
        sampling_rate=forward.sampling_rate,
        flow_limit=forward.flow_limit,
        strip_tag=forward.strip_tag,
        push_tag=0 if raw else forward.push_tag,
        tpid=forward.tpid,
        strip_ethernet=raw,
        guarded=forward.guarded,
        inside=forward.inside,
    )
