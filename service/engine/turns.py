"""What becomes of a turn: decided, run, committed, answered. The code stands in that order.

Rule 1: a reply is given only after its commit.
Rule 2: a lost race drops the cached record and decides again from the store.
Rule 3: each path from `begin` leads to exactly one `_end`.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Literal

from service.contract.text import TextCursor
from service.engine.committer import Committer
from service.engine.events import Observer
from service.engine.inputs import Work, work_for
from service.engine.job import Job
from service.engine.lanes import Lane, Lanes, Turn
from service.engine.registry import Registry
from service.engine.requests import CreateRequest, Observations, SessionRequest, StepRequest
from service.engine.session import (
    Answer,
    Apply,
    Reply,
    closed,
    decide,
    decide_create,
    is_fresh_needed,
    opened,
    seed_record,
    stepped,
)
from service.engine.worker import Worker
from service.errors import CarryError, ContentionError, StoreUnavailableError
from service.stores.base import Outcome, Store, Write
from service.stores.record import Outputs, Record

_MAX_LOST_RACES = 50

Workers = Mapping[tuple[str, str], Worker]
"""By model name and version."""


class Turns:
    """Brings the turn at the head of a lane to its end, then begins the next."""

    def __init__(
        self,
        registry: Registry,
        workers: Workers,
        store: Store,
        committer: Committer,
        lanes: Lanes,
        observer: Observer,
    ) -> None:
        self._registry = registry
        self._workers = workers
        self._store = store
        self._committer = committer
        self._lanes = lanes
        self._observer = observer
        self._loads: set[asyncio.Task[None]] = set()

    # A turn begins: decide, from the cache if that may be enough, else from the store.

    def begin(self, lane: Lane) -> None:
        request = lane.turns[0].request
        if lane.record is None or is_fresh_needed(request):
            self._decide_from_store(lane)
            return
        try:
            decision = self._decide(lane, lane.record, 0.0)
        except CarryError:
            decision = None
        if isinstance(decision, Apply):
            self._run(lane, decision)
        else:
            self._decide_from_store(lane)

    def _decide_from_store(self, lane: Lane) -> None:
        task = asyncio.create_task(self._load_and_decide(lane))
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)

    async def _load_and_decide(self, lane: Lane) -> None:
        try:
            found = await self._store.load(lane.key)
            decision = self._decide(lane, found, await self._store.now())
        except Exception as error:  # a task's boundary: the client must get an answer
            self._lanes.remember(lane, None)
            self._end(lane, error if isinstance(error, CarryError) else _unexpected(error))
            return
        self._lanes.remember(lane, None if found is None or found.closed else found)
        if isinstance(decision, Answer):
            self._end(lane, decision.reply)
        else:
            self._run(lane, decision)

    def _decide(self, lane: Lane, found: Record | None, now: float) -> Apply | Answer:
        request = lane.turns[0].request
        if not isinstance(request, CreateRequest):
            return decide(request, lane.key, found, now)
        model = self._registry.get(request.model, request.version)
        return decide_create(
            request, found, seed_record(lane.key, model, request, time.time()), now
        )

    # Run what was decided.

    def _run(self, lane: Lane, decision: Apply) -> None:
        turn, base = lane.turns[0], decision.base
        observations, emit = _to_run(turn.request)
        if observations is None:
            self._commit(lane, decision, _written(turn.request, base, base.state, base.cursor, {}))
            return
        try:
            model = self._registry.get_for_session(base.opening)
            work = work_for(model, base, observations, emit)
            job = self._job(turn, lane, decision, work)
            self._workers[model.name, model.version].submit(job)
        except CarryError as error:
            self._end(lane, error)

    def _job(self, turn: Turn, lane: Lane, decision: Apply, work: Work) -> Job:
        def on_done(job: Job, error: CarryError | None) -> None:
            if error is not None:
                self._end(lane, error)
                return
            record = _written(turn.request, decision.base, job.state, work.cursor, job.outputs)
            if isinstance(turn.request, StepRequest) and turn.request.is_preview:
                base = decision.base
                self._end(lane, Reply(base, record.step, base.step, job.outputs))
            else:
                self._commit(lane, decision, record, job.outputs)

        return Job(
            work.segments, decision.base.state, on_done, lambda: turn.is_wanted, turn.deadline
        )

    # Commit what was run, and answer.

    def _commit(
        self, lane: Lane, decision: Apply, record: Record, outputs: Outputs | None = None
    ) -> None:
        def on_done(outcome: Outcome | CarryError) -> None:
            if isinstance(outcome, CarryError):
                self._lanes.remember(lane, None)
                self._end(lane, outcome)
            elif not outcome.committed:
                self._race_lost(lane)
            else:
                written = record._replace(expires_at=outcome.expires_at)
                self._lanes.remember(lane, None if written.closed else written)
                self._observe(lane.turns[0].request, decision.base, written)
                self._end(lane, _reply(lane.turns[0].request, decision, written, outputs))

        self._committer.put(Write(record, decision.expected), on_done)

    def _race_lost(self, lane: Lane) -> None:
        turn = lane.turns[0]
        turn.num_lost_races += 1
        self._observer.commit_conflicted()
        self._lanes.remember(lane, None)
        if turn.num_lost_races > _MAX_LOST_RACES:
            self._end(
                lane,
                ContentionError(
                    f"session {lane.key.name!r}: {turn.num_lost_races} other writers were first;"
                    " nothing was applied: step a session from one client at a time",
                    retry_after_s=1,
                ),
            )
        else:
            self._decide_from_store(lane)

    def _end(self, lane: Lane, outcome: Reply | CarryError) -> None:
        lane.turns.popleft().end(outcome)
        if lane.turns:
            # Not called from here, so that a long lane of refusals does not nest.
            asyncio.get_running_loop().call_soon(self.begin, lane)
        else:
            self._lanes.rest(lane)
            self._observer.cache_changed(len(self._lanes), self._lanes.state_bytes)

    def _observe(self, request: SessionRequest, base: Record, written: Record) -> None:
        model, version = written.opening.model, written.opening.version
        if isinstance(request, CreateRequest):
            self._observer.session_created(model, version)
            self._observer.steps_committed(model, version, written.step)
        else:
            self._observer.steps_committed(model, version, written.step - base.step)
        if written.closed:
            self._observer.session_ended(model, version, written.closed)


def _unexpected(error: Exception) -> CarryError:
    problem = StoreUnavailableError(
        f"the session could not be read ({type(error).__name__}); nothing was applied: try again",
        retry_after_s=1,
    )
    problem.__cause__ = error
    return problem


def _to_run(request: SessionRequest) -> tuple[Observations | None, Literal["last", "all"]]:
    if isinstance(request, StepRequest):
        return request.observations, request.emit
    if isinstance(request, CreateRequest):
        return request.history, "last"
    return None, "last"


def _written(
    request: SessionRequest, base: Record, state: bytes, cursor: TextCursor, outputs: Outputs
) -> Record:
    """The record that follows `base`."""
    now = time.time()
    if isinstance(request, StepRequest):
        return stepped(base, request, state, cursor, outputs, now)
    if isinstance(request, CreateRequest):
        count = request.history.num_observed if request.history else 0
        return opened(base, count, state, cursor, outputs, now)
    return closed(base, "deleted", now)


def _reply(
    request: SessionRequest, decision: Apply, written: Record, outputs: Outputs | None
) -> Reply:
    is_new = isinstance(request, CreateRequest)
    return Reply(written, written.step, decision.base.step, outputs or {}, is_new=is_new)
