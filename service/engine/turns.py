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

from service.contract.text import TextCursor
from service.engine.committer import Committer
from service.engine.events import Observer
from service.engine.inputs import Past, work_for
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
from service.errors import (
    CarryError,
    ContentionError,
    RecordUnreadableError,
    StoreUnavailableError,
)
from service.stores.base import Outcome, Store, Write
from service.stores.record import PackedOutputs, Record

_MAX_LOST_RACES = 50
_EXPIRY_NOT_JUDGED = 0.0

Workers = Mapping[tuple[str, str], Worker]
"""By model name and version."""


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
        elif not self._run_from_cache(turn):
            self._decide_from_store(turn)

    def _run_from_cache(self, turn: Turn) -> bool:
        """True if the cached record led to a run: its commit will prove that it was right."""
        cached = turn.lane.record
        if cached is None or is_fresh_needed(turn.request):
            return False
        try:
            decision = self._decide(turn, cached, _EXPIRY_NOT_JUDGED)
            if not isinstance(decision, Apply):
                return False
            self._run(turn, decision)
        except Exception:  # whatever a guess leads to is looked at again with the truth
            return False
        return True

    def _decide_from_store(self, turn: Turn) -> None:
        task = asyncio.create_task(self._load_and_decide(turn))
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)

    async def _load_and_decide(self, turn: Turn) -> None:
        try:
            found = await self._store.load(turn.lane.key)
            self._lanes.remember(turn.lane, None if found is None or found.closed else found)
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
            self._commit(turn, decision, base.state, base.cursor, b"")
            return
        model = self._registry.get_for_session(base.opening)
        _require_whole(base, model.layout.row_bytes)
        past = Past(base.opening.start_s, base.step, base.cursor)
        segments, turn.cursor = work_for(model, past, observations, emit)
        job = Job(segments, base.state, turn.future, turn.deadline, self._on_job_done, turn)
        self._workers[model.name, model.version].submit(job)

    def _on_job_done(self, job: Job, error: CarryError | None) -> None:
        turn: Turn = job.owner
        decision, cursor = turn.apply, turn.cursor
        assert decision is not None, "set by _run, before the job"
        assert cursor is not None, "set by _run, before the job"
        request = turn.request
        if error is not None:
            self._end(turn, error)
        elif isinstance(request, StepRequest) and request.is_preview:
            base = decision.base
            step = base.step + request.observations.num_observed
            self._end(turn, Reply(base, step, job.outputs))
        else:
            self._commit(turn, decision, job.state, cursor, job.outputs)

    # Commit what was run, and answer.

    def _commit(
        self,
        turn: Turn,
        decision: Apply,
        state: bytes,
        cursor: TextCursor,
        outputs: PackedOutputs,
    ) -> None:
        turn.outputs = outputs
        turn.written = _written(turn.request, decision.base, state, cursor, outputs)
        self.committer.put(Write(turn.written, decision.expected), turn)

    def _on_group(self, turns: list[Turn], outcomes: Sequence[Outcome | CarryError]) -> None:
        num_steps: dict[tuple[str, str], int] = defaultdict(int)
        for turn, outcome in zip(turns, outcomes, strict=True):
            if isinstance(outcome, CarryError):
                self._lanes.remember(turn.lane, None)
                self._end(turn, outcome)
            elif not outcome.committed:
                self._race_lost(turn)
            else:
                record, count = self._committed(turn, outcome.expires_at)
                num_steps[record.opening.model, record.opening.version] += count
        for (model, version), count in num_steps.items():
            self._observer.steps_committed(model, version, count)
        self._observer.cache_changed(len(self._lanes), self._lanes.state_bytes)

    def _committed(self, turn: Turn, expires_at: float) -> tuple[Record, int]:
        """Answer a committed turn; its record, and the steps that it made."""
        decision, written = turn.apply, turn.written
        assert decision is not None, "set by _run, before the commit"
        assert written is not None, "set by _commit"
        record = written._replace(expires_at=expires_at)
        is_new = isinstance(turn.request, CreateRequest)
        from_step = 0 if is_new else decision.base.step
        opening = record.opening
        if is_new:
            self._observer.session_created(opening.model, opening.version)
        if record.closed:
            self._observer.session_ended(opening.model, opening.version, record.closed)
        if decision.expired is not None:
            gone = decision.expired.opening
            self._observer.session_ended(gone.model, gone.version, "expired")
        self._lanes.remember(turn.lane, None if record.closed else record)
        self._end(turn, Reply(record, record.step, turn.outputs, is_new=is_new))
        return record, record.step - from_step

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
        lane.turns.popleft()
        if lane.turns:
            # Not called from here, so that a long lane of refusals does not nest.
            asyncio.get_running_loop().call_soon(self.begin, lane.turns[0])
        else:
            self._lanes.rest(lane)


def _unexpected(error: Exception) -> CarryError:
    problem = StoreUnavailableError(
        f"the session could not be read or run ({type(error).__name__}); nothing was applied",
        retry_after_s=1,
    )
    problem.__cause__ = error
    return problem


def _require_whole(record: Record, row_bytes: int) -> None:
    """One state of a wrong size would fail the whole batch that it is in."""
    if len(record.state) != row_bytes:
        raise RecordUnreadableError(
            f"session {record.opening.name!r} has a state of {len(record.state)} bytes, its model"
            f" carries {row_bytes}: the record is damaged; open the session again"
        )


def _to_run(request: SessionRequest) -> tuple[Observations | None, Literal["last", "all"]]:
    if isinstance(request, StepRequest):
        return request.observations, request.emit
    if isinstance(request, CreateRequest):
        return request.history, "last"
    return None, "last"


def _written(
    request: SessionRequest, base: Record, state: bytes, cursor: TextCursor, outputs: PackedOutputs
) -> Record:
    """The record that follows `base`."""
    now = time.time()
    if isinstance(request, StepRequest):
        return stepped(base, request, state, cursor, outputs, now)
    if isinstance(request, CreateRequest):
        count = request.history.num_observed if request.history else 0
        return opened(base, count, state, cursor, outputs, now)
    return closed(base, "deleted", now)
