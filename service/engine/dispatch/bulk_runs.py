"""Rows of sessions that have several in one bulk: runs of rows, each one request of its session.

Rule 1: a run is a request of so many rows, answered after each of them; it is applied as a whole or
        not at all. Its rows follow one another: where one names another step, a new run begins.
Rule 2: of a session one run is under way at a time, so its rows are applied in their order.
Rule 3: a run that one of its rows may have spoilt is run again as two halves, down to that row: the
        rows before it are applied, as if they had come one by one. Together that is less than twice
        the work, and a few runs more.
Rule 4: a row that failed is answered with the reason, the later ones of its session are skipped.
        Where nobody knows what became of a run, all its rows are answered so.
Rule 5: at most `_MAX_UNDER_WAY` rows are under way, or one run.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from service.engine.dispatch.bulk import Bulk, BulkTask, Outcomes, skipped
from service.engine.session.requests import Observations, StepRequest
from service.engine.session.rules import Reply
from service.errors import CarryError, InvalidInputError, ModelFailedError, NotFiniteError
from service.stores.record.record import Key

if TYPE_CHECKING:  # they know each other
    from service.engine.dispatch.dispatcher import Dispatcher
    from service.engine.dispatch.session_queues import SessionQueues

_MAX_UNDER_WAY = 8192
_MAY_BE_ONE_ROW = (InvalidInputError, ModelFailedError, NotFiniteError)

Run = list[int]
"""Places of rows in the bulk, in order."""


class RunRequests:
    """Rows `[N, F]`, several for each key; a run has at most `max_run_rows`."""

    def __init__(
        self,
        keys: Sequence[Key],
        rows: np.ndarray,
        steps: Sequence[int | None],
        max_run_rows: int,
    ) -> None:
        self.keys = keys
        self.rows = rows
        self.steps = steps
        self.max_run_rows = max_run_rows

    def __len__(self) -> int:
        return len(self.keys)

    def runs(self) -> dict[Key, deque[Run]]:
        """Those of each session, in order."""
        found: dict[Key, deque[Run]] = {}
        for place, key in enumerate(self.keys):
            runs = found.get(key)
            if runs is None:
                found[key] = deque([[place]])
            elif len(runs[-1]) < self.max_run_rows and self._follows(runs[-1], place):
                runs[-1].append(place)
            else:
                runs.append([place])
        return found

    def request_of(self, run: Run) -> StepRequest:
        emit = "all" if len(run) > 1 else "last"
        return StepRequest(Observations(rows=self.rows[run]), self.steps[run[0]], emit)  # type: ignore[arg-type]

    def _follows(self, run: Run, place: int) -> bool:
        """A row that names no step follows whatever came before it."""
        first, step = self.steps[run[0]], self.steps[place]
        return step is None or (first is not None and step == first + len(run))


class BulkRuns(Bulk):
    """A bulk of runs; a run is known by the place of its first row while it is under way."""

    def __init__(
        self,
        requests: RunRequests,
        future: "asyncio.Future[Outcomes]",
        deadline: float,
        queues: "SessionQueues",
        dispatcher: "Dispatcher",
    ) -> None:
        super().__init__(len(requests), future, deadline, queues, dispatcher)
        self._requests = requests
        self._waiting = requests.runs()
        self._ready = deque(self._waiting)
        self._under_way: dict[int, tuple[Key, Run]] = {}
        self._num_under_way = 0

    def begin(self) -> None:
        self._is_begin_due = False
        while self._ready and not self.future.done():
            key = self._ready[0]
            run = self._next_run(key)
            if self._under_way and self._num_under_way + len(run) > _MAX_UNDER_WAY:
                self._waiting[key].appendleft(run)
                return
            self._ready.popleft()
            self._begin_run(key, run)

    def take(self, place: int, outcome: Reply | CarryError) -> None:
        """The outcome of the run that begins at `place`; only the first counts."""
        if place not in self._under_way:
            return
        key, run = self._under_way.pop(place)
        self._num_under_way -= len(run)
        if isinstance(outcome, Reply):
            self._applied(key, run, outcome)
        elif len(run) > 1 and isinstance(outcome, _MAY_BE_ONE_ROW):
            half = len(run) // 2
            self._waiting[key].extendleft([run[half:], run[:half]])
            self._ready.appendleft(key)
            self._took(0)
        else:
            self._failed(key, run, outcome)

    def refuse(self, error: CarryError) -> None:
        self._ready.clear()
        self._under_way.clear()
        outcomes = self._outcomes
        left = [
            place
            for place in range(len(outcomes.steps))
            if outcomes.steps[place] < 0 and place not in outcomes.errors
        ]
        outcomes.errors.update(dict.fromkeys(left, error))
        self._took(len(left))

    @property
    def _has_more(self) -> bool:
        return bool(self._ready)

    def _next_run(self, key: Key) -> Run:
        """No longer than from one checkpoint of its session to the next."""
        run, cached = self._waiting[key].popleft(), self._queues.cached(key)
        keeps = cached and cached.header.keeps
        if keeps and keeps.checkpoints and len(run) > keeps.checkpoint_every:
            self._waiting[key].appendleft(run[keeps.checkpoint_every :])
            run = run[: keeps.checkpoint_every]
        return run

    def _begin_run(self, key: Key, run: Run) -> None:
        self._under_way[run[0]] = key, run
        self._num_under_way += len(run)
        queue = self._queues.queue_of(key)
        request = self._requests.request_of(run)
        task = BulkTask(queue, request, self.future, self.deadline, self.timing)
        task.bulk, task.place = self, run[0]
        try:
            self._dispatcher.join(task)
        except CarryError as error:
            self.take(run[0], error)

    def _applied(self, key: Key, run: Run, reply: Reply) -> None:
        outcomes, num_rows = self._outcomes, len(run)
        size = len(reply.outputs) // num_rows
        for number, place in enumerate(run):
            outcomes.steps[place] = reply.step - num_rows + 1 + number
            outcomes.outputs[place] = reply.outputs[number * size : (number + 1) * size]
        if reply.is_replay:
            outcomes.replayed.update(run)
        if self._waiting[key]:
            self._ready.append(key)
        self._took(num_rows)

    def _failed(self, key: Key, run: Run, error: CarryError) -> None:
        later = [place for each in self._waiting[key] for place in each]
        self._waiting[key].clear()
        is_known = error.status < 500
        self._outcomes.errors[run[0]] = error
        rest = skipped(key) if is_known else error
        self._outcomes.errors.update(dict.fromkeys(run[1:], rest))
        self._outcomes.errors.update(dict.fromkeys(later, skipped(key)))
        self._took(len(run) + len(later))


def by_session(keys: Sequence[Key]) -> tuple[list[int], list[int]]:
    """The places of keys that stand there once, and those of the others."""
    if len(set(keys)) == len(keys):
        return [*range(len(keys))], []
    counts = Counter(keys)
    single = [place for place, key in enumerate(keys) if counts[key] == 1]
    several = [place for place, key in enumerate(keys) if counts[key] > 1]
    return single, several


async def joined(parts: "list[tuple[list[int], asyncio.Future[Outcomes]]]") -> Outcomes:
    """The outcomes of bulks, each of the rows at its places, as those of one."""
    found = await asyncio.gather(*(future for _, future in parts))
    num_rows = sum(len(places) for places, _ in parts)
    whole = Outcomes([-1] * num_rows, [b""] * num_rows)
    for (places, _), part in zip(parts, found, strict=True):
        for number, place in enumerate(places):
            whole.steps[place] = part.steps[number]
            whole.outputs[place] = part.outputs[number]
        whole.errors.update((places[number], error) for number, error in part.errors.items())
        whole.replayed.update(places[number] for number in part.replayed)
    return whole
