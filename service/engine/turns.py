"""What becomes of a turn: decided, run, committed, answered. The code stands in that order.

Rule 1: a reply is given only after its commit.
Rule 2: a lost race drops the cached record and decides again from the store.
Rule 3: each path from `begin` leads to exactly one `_end`.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from service.contract.text import UNREAD, TextCursor
from service.engine.committer import Committer
from service.engine.events import Observer
from service.engine.inputs import work_for
from service.engine.lanes import Lane, Lanes
from service.engine.registry import Registry
from service.engine.requests import CreateRequest, Observations, SessionRequest, StepRequest
from service.engine.runner import BatchResult
from service.engine.session import (
    Answer,
    Apply,
    Reply,
    closed,
    decide,
    decide_create,
    may_apply,
    opened,
    seed_record,
    stepped,
    stepped_alike,
)
from service.engine.turn import Turn
from service.engine.worker import Worker
from service.errors import (
    CarryError,
    ContentionError,
    RecordUnreadableError,
    StoreUnavailableError,
)
from service.stores.base import Store, Write
from service.stores.record import Opening, Origin, PackedOutputs, Record

_MAX_LOST_RACES = 50
_EXPIRY_NOT_JUDGED = 0.0

Workers = Mapping[Origin, Worker]


class Turns:
    """Brings the turn at the head of a lane to its end, then begins the next."""

    def __init__(
        self,
        registry: Registry,
        workers: Workers,
        store: Store,
        lanes: Lanes,
        observer: Observer,
    ) -> None:
        self._registry = registry
        self._workers = workers
        self._store = store
        self._lanes = lanes
        self._observer = observer
        self.committer = Committer[Turn](store, observer, self._on_group)
        self._loads: set[asyncio.Task[None]] = set()

    # A turn begins: decide, from the cache if that may be enough, else from the store.

    def begin(self, turn: Turn) -> None:
        """`turn` has come to the head of its lane."""
        if turn.future.done():  # the client left, or its deadline passed, while it waited
            self._next(turn.lane)
            return
        cached = turn.lane.record
        if cached is not None and may_apply(turn.request, turn.lane.step):
            try:
                self._run(turn, Apply(cached, cached))
            except Exception:  # noqa: S110 -- a guess led here: the store knows the truth
                pass
            else:
                return
        self._decide_from_store(turn)

    def _decide_from_store(self, turn: Turn) -> None:
        task = asyncio.create_task(self._load_and_decide(turn))
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)

    async def _load_and_decide(self, turn: Turn) -> None:
        try:
            found = await self._store.load(turn.lane.key)
            self._lanes.remember(turn.lane, found)
            decision = self._decide(turn, found, await self._store.now())
            if isinstance(decision, Apply):
                self._run(turn, decision)
            else:
                self._end(turn, decision.reply)
        except CarryError as error:
            self._end(turn, error)
        except Exception as error:  # a task's boundary: the client must get an answer
            self._lanes.remember(turn.lane, None)
            self._end(turn, _unexpected(error))

    def _decide(self, turn: Turn, found: Record | None, now: float) -> Apply | Answer:
        request, key = turn.request, turn.lane.key
        if not isinstance(request, CreateRequest):
            return decide(request, key, found, now)
        model = self._registry.get(request.model, request.version)
        return decide_create(request, found, seed_record(key, model, request, time.time()), now)

    # Run what was decided.

    def _run(self, turn: Turn, decision: Apply) -> None:
        """Hand the turn on to its worker or, with nothing to run, to the store.

        Raises:
            CarryError: the model is gone, the input does not fit it, or its queue is full.
        """
        turn.apply = decision
        base = decision.base
        observations, emit = _to_run(turn.request)
        if observations is None:
            self._commit_one(turn, base.state)
            return
        opening, state = base.opening, base.state
        worker = self._workers.get(opening.origin)
        if worker is None:
            worker = self._workers[self._registry.get_for_session(opening).origin]
        model = worker.model
        if len(state) != model.layout.row_bytes:
            raise _damaged(base, model.layout.row_bytes)
        cursor = UNREAD if model.codec is None else base.cursor
        work = work_for(model, opening.start_s, base.step, cursor, observations, emit)
        turn.cursor = work.cursor
        turn.feed(work.segments, state)
        worker.submit(turn)

    def ran(self, turns: list[Turn], rows: list[int], result: BatchResult) -> None:
        """The graph is through with some turns, all those of a batch that ended there."""
        alike = [turn for turn in turns if _is_alike(turn)]
        if len(alike) == len(result.states):
            self._commit_alike(alike, result.states, result.last)
            return
        for turn, row in zip(turns, rows, strict=True):
            if turn.remaining:  # it lies in the result as it is
                turn.state, turn.outputs = result.state_of(row), result.last_of(row)
            request = turn.request
            if isinstance(request, StepRequest) and request.is_preview:
                base = turn.apply.base
                step = base.step + request.observations.num_observed
                self._end(turn, Reply(base, step, turn.outputs))
            else:
                self._commit_one(turn, turn.state)

    def failed(self, turn: Turn, error: CarryError) -> None:
        """A turn could not be run."""
        self._end(turn, error)

    # Commit what was run, and answer.

    def _commit_one(self, turn: Turn, state: bytes) -> None:
        decision = turn.apply
        opening, data = _written(turn.request, decision.base, state, turn.cursor, turn.outputs)
        self.committer.put([Write(opening, data, decision.replaces)], [turn])

    def _commit_alike(self, turns: list[Turn], states: np.ndarray, outputs: np.ndarray) -> None:
        """Commit a whole batch of turns that differ in nothing but their values."""
        bases = [turn.apply.base for turn in turns]
        requests: list[StepRequest] = [turn.request for turn in turns]  # type: ignore[misc]  # are alike
        steps = [turn.lane.step for turn in turns]
        data = stepped_alike(bases, steps, requests, states, outputs, time.time())
        num_bytes = outputs.shape[1]
        for turn, each in zip(turns, data, strict=True):
            turn.outputs = each[-num_bytes:]
        openings = [base.opening for base in bases]
        self.committer.put(list(map(Write._make, zip(openings, data, bases, strict=True))), turns)

    def _on_group(self, turns: list[Turn], outcomes: Sequence[Record | CarryError | None]) -> None:
        num_steps: dict[Origin, int] = defaultdict(int)
        for turn, outcome in zip(turns, outcomes, strict=True):
            if isinstance(outcome, CarryError):
                self._lanes.remember(turn.lane, None)
                self._end(turn, outcome)
            elif outcome is None:
                self._race_lost(turn)
            else:
                num_steps[outcome.opening.origin] += self._committed(turn, outcome)
        for origin, count in num_steps.items():
            self._observer.steps_committed(origin.model, origin.version, count)
        self._observer.cache_changed(len(self._lanes), self._lanes.state_bytes)

    def _committed(self, turn: Turn, record: Record) -> int:
        """Answer a committed turn; how many steps it made."""
        decision = turn.apply
        is_new = decision.replaces is None
        from_step = 0 if is_new else decision.base.step
        step = record.step
        if is_new or record.closed:
            self._report_life(decision, record, is_new=is_new)
        self._lanes.remember(turn.lane, record)
        self._end(turn, Reply(record, step, turn.outputs, False, is_new))
        return step - from_step

    def _report_life(self, decision: Apply, record: Record, *, is_new: bool) -> None:
        opening = record.opening
        if is_new:
            self._observer.session_created(opening.model, opening.version)
        if record.closed:
            self._observer.session_ended(opening.model, opening.version, record.closed)
        if decision.expired is not None:
            gone = decision.expired.opening
            self._observer.session_ended(gone.model, gone.version, "expired")

    def _race_lost(self, turn: Turn) -> None:
        turn.num_lost_races += 1
        self._observer.commit_conflicted()
        if turn.num_lost_races <= _MAX_LOST_RACES:
            self._decide_from_store(turn)
            return
        self._end(
            turn,
            ContentionError(
                f"session {turn.lane.key.name!r}: {turn.num_lost_races} other writers were first;"
                " nothing was applied: step a session from one client at a time",
                retry_after_s=1,
            ),
        )

    def _end(self, turn: Turn, outcome: Reply | CarryError) -> None:
        turn.end(outcome)
        self._next(turn.lane)

    def _next(self, lane: Lane) -> None:
        """The turn at the head of the lane is over."""
        turn = self._lanes.next(lane)
        if turn is not None:
            # Not called from here, so that a long lane of refusals does not nest.
            asyncio.get_running_loop().call_soon(self.begin, turn)


def _unexpected(error: Exception) -> CarryError:
    problem = StoreUnavailableError(
        f"the session could not be read or run ({type(error).__name__}); nothing was applied",
        retry_after_s=1,
    )
    problem.__cause__ = error
    return problem


def _damaged(record: Record, row_bytes: int) -> CarryError:
    """One state of a wrong size would fail the whole batch that it is in."""
    return RecordUnreadableError(
        f"session {record.opening.name!r} has a state of {record.state_bytes} bytes, its model"
        f" carries {row_bytes}: the record is damaged; open the session again"
    )


def _is_alike(turn: Turn) -> bool:
    """A step of rows, ended with its first batch, of a session that keeps one reply."""
    return (
        bool(turn.remaining)
        and turn.lane.record is turn.apply.base
        and turn.apply.base.opening.ring_size == 1
        and turn.cursor is UNREAD
        and isinstance(turn.request, StepRequest)
        and not turn.request.is_preview
        and not turn.request.observations.final
    )


def _to_run(request: SessionRequest) -> tuple[Observations | None, Literal["last", "all"]]:
    if isinstance(request, StepRequest):
        return request.observations, request.emit
    if isinstance(request, CreateRequest):
        return request.history, "last"
    return None, "last"


def _written(
    request: SessionRequest, base: Record, state: bytes, cursor: TextCursor, outputs: PackedOutputs
) -> tuple[Opening, bytes]:
    """What follows `base`."""
    now = time.time()
    if isinstance(request, StepRequest):
        return base.opening, stepped(base, request, state, cursor, outputs, now)
    if isinstance(request, CreateRequest):
        count = request.history.num_observed if request.history else 0
        return opened(base, count, state, cursor, outputs, now)
    return base.opening, closed(base, "deleted", now)
