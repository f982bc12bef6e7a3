"""Where the time of a request goes: marks that it leaves on its way through the engine.

Rule 1: the transport creates the timing of a request, and passes it on or sets `CURRENT` while
        the engine is asked: every job that is made meanwhile leaves its marks there. Without one
        nobody marks anything; it costs a check for None for each job and a flag for each batch.
Rule 2: a request of many jobs (bulk, instances) has one timing: a mark is the first time that one
        of them was queued, and the last time that one came from the graph or from the store.
Rule 3: marks are on the clock of `time.perf_counter`, which is that of `Batch.began_s`.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from service.engine.graph.runner import Batch
from service.engine.models.loaded_model import LoadedModel


class RequestTiming:
    """Marks of one request. Of a subclass they may become spans of a trace."""

    __slots__ = ("began_s", "committed_s", "graph_s", "model", "num_batches", "queued_s", "ran_s")

    def __init__(self) -> None:
        self.began_s = time.perf_counter()
        self.queued_s = self.ran_s = self.committed_s = self.graph_s = 0.0
        self.num_batches = 0
        self.model: LoadedModel | None = None

    def queued(self, model: LoadedModel) -> None:
        """It waits for the graph."""
        if self.model is None:
            self.model = model
            self.queued_s = time.perf_counter()

    def ran(self, batch: Batch) -> None:
        """It was in a batch that has run."""
        self.ran_s = batch.began_s + batch.ort_s
        self.graph_s += batch.ort_s
        self.num_batches += 1

    def committed(self) -> None:
        """What became of it is in the store."""
        self.committed_s = time.perf_counter()

    def spent(self, ended_s: float) -> dict[str, float]:
        """Seconds by where they went; together they are all of them.

        `begin`: read, decoded, behind earlier steps of its session, decided. `queue`: waited for
        the graph. `graph`: in it. `commit`: packed and stored. `answer`: what was left.
        """
        queued_s = self.queued_s or self.committed_s or ended_s
        ran_s = self.ran_s or (ended_s if self.queued_s else queued_s)
        committed_s = self.committed_s or ended_s
        graph_s = min(self.graph_s, ran_s - queued_s)  # those of several models run at once
        return {
            "begin_s": queued_s - self.began_s,
            "queue_s": ran_s - queued_s - graph_s,
            "graph_s": graph_s,
            "commit_s": committed_s - ran_s,
            "answer_s": ended_s - committed_s,
        }

    # What a trace is told; without one, nothing.

    @property
    def is_sampled(self) -> bool:
        return False

    @property
    def trace_id(self) -> str | None:
        return None

    @property
    def traceparent(self) -> str | None:
        """Of the request's own span, as W3C writes it."""
        return None

    def ran_together(
        self, timings: "Sequence[RequestTiming]", model: LoadedModel, batch: Batch
    ) -> None:
        """A batch has run with these sampled ones in it, of which this is the first."""

    def end(
        self,
        name: str,
        ended_s: float,
        attributes: Mapping[str, str | int],
        *,
        has_failed: bool,
    ) -> None:
        """The request is over."""


CURRENT: ContextVar[RequestTiming | None] = ContextVar("timing", default=None)


@contextmanager
def on(timing: RequestTiming | None) -> Iterator[None]:
    """What the engine is asked meanwhile leaves its marks on this timing."""
    token = CURRENT.set(timing)
    try:
        yield
    finally:
        CURRENT.reset(token)


def mark_batch(found: Iterable[RequestTiming | None], model: LoadedModel, batch: Batch) -> None:
    """A batch of jobs with these timings has run."""
    timings = [timing for timing in dict.fromkeys(found) if timing is not None]
    for timing in timings:
        timing.ran(batch)
    sampled = [timing for timing in timings if timing.is_sampled]
    if sampled:
        sampled[0].ran_together(sampled, model, batch)


def rounded(spent: Mapping[str, float]) -> dict[str, float]:
    """As it stands in a log: microseconds are enough."""
    return {name: round(seconds, 6) for name, seconds in spent.items()}
