"""One session's part of a data plane, with a source of its own and no worker: the test runs it."""

from __future__ import annotations

from mirrord.dataplane.pipeline import Pipeline
from mirrord.dataplane.tap import Tap
from mirrord.plans import PipelinePlan


class Alone:
    """A tap and its only pipeline. OSError, and then nothing is left open."""

    def __init__(self, plan: PipelinePlan, *, native: bool) -> None:
        self.pipeline = Pipeline(plan, native=native)
        try:
            self.tap = Tap([self.pipeline], native=native)
        except BaseException:
            self.pipeline.close()
            raise

    def close(self) -> None:
        """Let go of both."""
        self.tap.close()
        self.pipeline.close()
