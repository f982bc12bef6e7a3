"""What becomes of a turn: decided, run, committed, answered. The code stands in that order.

Rule 1: a reply is given only after its commit.
Rule 2: a lost race drops the cached record and decides again from the store.
Rule 3: each path from `begin` leads to exactly one `_end`.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import numpy as np

from service.contract.text import NO_TEXT, UNREAD
from service.engine.dispatch.decisions import decide_turn, num_steps_made, written
from service.engine.dispatch.group_commit import Committer
from service.engine.dispatch.request_task import Turn
from service.engine.dispatch.session_queues import Lane, Lanes
from service.engine.dispatch.step_group import StepGroup
from service.engine.graph.runner import BatchResult
from service.engine.inference.worker import Worker
from service.engine.inference.worker_pool import Workers
from service.engine.models.registry import Registry
from service.engine.observer import Observer
from service.engine.session.inputs import feed
from service.engine.session.requests import Observations, StartRequest, StepRequest
from service.engine.session.rules import (
    Apply,
    Reply,
    may_apply,
    stepped_alike,
)
from service.engine.session.starts import leaves_nothing
from service.engine.timing import Trail
from service.errors import (
    CarryError,
    ContentionError,
    RecordUnreadableError,
    StoreUnavailableError,
)
from service.stores.base import Store, Write
from service.stores.record.record import STATE_AT, Origin, Record
from service.wordings import case

_MAX_LOST_RACES = 50
_FEW = 6
"""Turns that are committed faster one by one than by columns."""


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
        self.lanes = lanes
        self.observer = observer
        self.committer = Committer(store, observer)
        self._open: dict[Worker, StepGroup] = {}
        self._loads: set[asyncio.Task[None]] = set()

    def join(self, turn: Turn) -> None:
        """Take a turn up, behind the others of its session.

        Raises:
            QueueFullError: too many of them wait already.
        """
        if self.lanes.join(turn):
            self.begin(turn)

    def gather(
        self,
        lane: Lane,
        request: StepRequest,
        future: "asyncio.Future[Reply]",
        deadline: float,
        trail: Trail | None,
    ) -> bool:
        """Take up a single step (`is_single`) with others; False if it must go as a turn.

        Raises:
            QueueFullError: its model has too much to do.
        """
        worker = lane.worker
        if worker is None:
            return False
        group = self._open.get(worker)
        if group is None or not group.is_open:
            group = self._open[worker] = StepGroup(self, worker)
        return group.add(lane, request, future, deadline, trail)

    async def forget_worker(self, worker: Worker) -> None:
        """Give a worker no more steps: every lane finds its own anew."""
        await self.lanes.forget_worker(worker)
        self._open.pop(worker, None)

    # A turn begins: decide, from the cache if that may be enough, else from the store.

    def begin(self, turn: Turn) -> None:
        """`turn` has come to the head of its lane."""
        if not turn.is_wanted():
            self.next(turn.lane)
            return
        lane = turn.lane
        if lane.record is not None and may_apply(turn.request, lane.record, lane.step):
            try:
                self._run(turn, lane.record, lane.record, turn.request.observations)
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
            self.lanes.remember(turn.lane, found)
            decision = await decide_turn(turn, found, self._store, self._registry)
            if isinstance(decision, Apply):
                turn.expired = decision.expired
                observations = decision.fed or turn.request.observations
                self._run(turn, decision.base, decision.replaces, observations)
            else:
                self._end(turn, decision.reply)
        except CarryError as error:
            self._end(turn, error)
        except Exception as error:  # a task's boundary: the client must get an answer
            self.lanes.remember(turn.lane, None)
            self._end(turn, _unexpected(error))

    # Run what was decided.

    def _run(
        self,
        turn: Turn,
        base: Record,
        replaces: Record | None,
        observations: Observations | None,
    ) -> None:
        """Hand the turn on to its worker or, with nothing to run, to the store.

        Raises:
            CarryError: the model is gone, the input does not fit it, or its queue is full.
        """
        turn.base, turn.replaces = base, replaces
        request, lane = turn.request, turn.lane
        if observations is None:
            turn.cursor, turn.outputs = UNREAD, b""
            self._commit_one(turn, base.state)
            return
        worker = lane.worker or self._worker_for(turn, base)
        model = worker.model
        step = lane.step if base is lane.record else base.step
        cursor = NO_TEXT if model.codec is None else base.cursor
        state = base.data[STATE_AT : STATE_AT + model.layout.row_bytes]
        start_s = base.opening.start_s
        turn.cursor = feed(turn, model, start_s, step, cursor, state, observations, request.emit)
        if request.is_preview or request.key is not None or observations.final:
            turn.is_simple = False
        worker.submit(turn)

    def _worker_for(self, turn: Turn, base: Record) -> Worker:
        """The worker of a record's model, remembered with the record."""
        worker = self._workers.of(self._registry.get_for_session(base.opening))
        row_bytes = worker.model.layout.row_bytes
        if base.state_bytes != row_bytes:  # it would fail the whole batch that it is in
            raise RecordUnreadableError(
                case(
                    "record-unfit",
                    session=base.opening.name,
                    state_bytes=base.state_bytes,
                    expected_bytes=row_bytes,
                )
            )
        if base is turn.lane.record:
            turn.lane.worker = worker
            opening = base.opening
            turn.lane.is_plain = (
                worker.model.codec is None and opening.ring_size == 1 and opening.keeps is None
            )
        return worker

    def ran(self, turns: list[Turn], rows: list[int], result: BatchResult) -> None:
        """The graph is through with some turns, all those of a batch that ended there."""
        alike = [turn.is_simple and turn.lane.is_plain and turn.remaining for turn in turns]
        if len(turns) == len(result.states) and len(turns) > _FEW and all(alike):
            self._commit_alike(turns, result.states, result.last)
            return
        for turn, row in zip(turns, rows, strict=True):
            if turn.remaining:  # it lies in the result as it is
                turn.state, turn.outputs = result.state_of(row), result.last_of(row)
            elif turn.cursor is not NO_TEXT and turn.writer is not None:
                turn.cursor = turn.writer.cursor
            request = turn.request
            if isinstance(request, StepRequest) and request.is_preview:
                step = turn.base.step + request.observations.num_observed
                self._end(turn, Reply(turn.base, step, turn.outputs))
            elif isinstance(request, StartRequest) and leaves_nothing(request, turn.replaces):
                self._end_unwritten(turn, request)
            else:
                self._commit_one(turn, turn.state)

    def failed(self, turn: Turn, error: CarryError) -> None:
        """A turn could not be run."""
        self._end(turn, error)

    # Commit what was run, and answer.

    def _commit_one(self, turn: Turn, state: bytes) -> None:
        opening, data = written(turn, state)
        write = opening, data, turn.replaces
        self.committer.put([write], partial(self._answer, [turn]))

    def _commit_alike(self, turns: list[Turn], states: np.ndarray, outputs: np.ndarray) -> None:
        """Commit a whole batch of turns that differ in nothing but their values."""
        bases = [turn.base for turn in turns]
        steps = [turn.lane.step for turn in turns]
        requests: list[StepRequest] = [turn.request for turn in turns]  # type: ignore[misc]  # are alike
        counts = [request.observations.num_observed for request in requests]
        digests = [request.digest for request in requests]
        data = stepped_alike(bases, steps, counts, digests, states, outputs, time.time())
        num_bytes = outputs.shape[1]
        for turn, each in zip(turns, data, strict=True):
            turn.outputs = each[-num_bytes:]
        openings = [base.opening for base in bases]
        writes: list[Write] = list(zip(openings, data, bases, strict=True))
        self.committer.put(writes, partial(self._answer, turns))

    def _answer(self, turns: list[Turn], outcomes: Sequence[Record | CarryError | None]) -> None:
        self._count(turns, outcomes)  # first: whoever is answered may ask how many there were
        for turn, outcome in zip(turns, outcomes, strict=True):
            if isinstance(outcome, Record):
                if turn.trail is not None:
                    turn.trail.committed()
                self._committed(turn, outcome)
            elif outcome is None:
                self._race_lost(turn)
            else:
                self.lanes.remember(turn.lane, None)
                self._end(turn, outcome)
        self.observer.cache_changed(len(self.lanes), self.lanes.state_bytes)

    def _count(self, turns: list[Turn], outcomes: Sequence[Record | CarryError | None]) -> None:
        num_steps: dict[Origin, int] = defaultdict(int)
        for turn, outcome in zip(turns, outcomes, strict=True):
            if isinstance(outcome, Record):
                num_steps[outcome.opening.origin] += num_steps_made(turn, outcome)
        for each, number in num_steps.items():
            self.observer.steps_committed(each.model, each.version, number)

    def _committed(self, turn: Turn, record: Record) -> None:
        """Answer a committed turn."""
        lane, request = turn.lane, turn.request
        if (
            turn.replaces is lane.record
            and isinstance(request, StepRequest)
            and not request.observations.final
        ):
            step = lane.step + request.observations.num_observed
            self.lanes.stepped(lane, record, step)
            turn.end(Reply(record, step, turn.outputs))
            self.next(lane)
            return
        is_new = turn.replaces is None
        self._report_life(turn, record, is_new=is_new)
        self.lanes.remember(lane, record)
        reply = Reply(record, record.step, turn.outputs, is_new=is_new, before=turn.replaces)
        self._end(turn, reply)

    def _end_unwritten(self, turn: Turn, request: StartRequest) -> None:
        """Answer a start that ends its session, where none was open."""
        count, opening = request.observations.num_observed, turn.base.opening
        self.observer.steps_committed(opening.model, opening.version, count)
        self.observer.session_created(opening.model, opening.version)
        self.observer.session_ended(opening.model, opening.version, "final")
        self._end(turn, Reply(turn.base, count, turn.outputs, is_new=True))

    def _report_life(self, turn: Turn, record: Record, *, is_new: bool) -> None:
        opening = record.opening
        if isinstance(turn.request, StartRequest) and turn.replaces is not None:
            gone = turn.replaces.opening
            self.observer.session_ended(gone.model, gone.version, "replaced")
            is_new = True
        if is_new:
            self.observer.session_created(opening.model, opening.version)
        if record.closed:
            self.observer.session_ended(opening.model, opening.version, record.closed)
        if turn.expired is not None:
            gone = turn.expired.opening
            self.observer.session_ended(gone.model, gone.version, "expired")
        if turn.request.operation is not None:
            self.observer.session_operated(opening.model, opening.version, turn.request.operation)

    def _race_lost(self, turn: Turn) -> None:
        turn.num_lost_races += 1
        self.observer.commit_conflicted()
        if turn.num_lost_races <= _MAX_LOST_RACES:
            self._decide_from_store(turn)
            return
        self._end(
            turn,
            ContentionError(
                case("contention", session=turn.lane.key.name, num_lost=turn.num_lost_races),
                retry_after_s=1,
            ),
        )

    def _end(self, turn: Turn, outcome: Reply | CarryError) -> None:
        if isinstance(outcome, CarryError):
            self.observer.request_refused(outcome.code)
        turn.end(outcome)
        self.next(turn.lane)

    def next(self, lane: Lane) -> None:
        """The turn at the head of the lane is over."""
        turn = self.lanes.next(lane)
        if turn is not None:
            assert isinstance(turn, Turn), "nothing else waits in a lane"
            # Not called from here, so that a long lane of refusals does not nest.
            asyncio.get_running_loop().call_soon(self.begin, turn)


def _unexpected(error: Exception) -> CarryError:
    problem = StoreUnavailableError(
        case("session-unusable", error=type(error).__name__),
        retry_after_s=1,
    )
    problem.__cause__ = error
    return problem
