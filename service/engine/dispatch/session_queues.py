"""Lanes: the requests of one session, one at a time, in the order in which they came.

Rule 1: the turn at the head of a lane is the only one in flight; it ends exactly once.
Rule 2: a lane's cached record is a guess, and of an open session. It is dropped whenever a write
        was refused or its outcome is not known, and with the lane when the cache is full.
Rule 3: a lane with waiting turns is never dropped. Of the idle ones, those leave first that were
        not used for a whole round: a step only marks its lane, nothing is moved.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from service.engine.inference.worker import Worker
from service.engine.models.loaded_model import LoadedModel
from service.engine.session.rules import Reply
from service.errors import CarryError, QueueFullError
from service.stores.record.record import Key, Record
from service.wordings import case

_MAX_WAITING_TURNS = 1024
_LOOKS = 64
_LOOKED_AT_ONCE = 5_000


class Head(Protocol):
    """What may be in flight for a session: a request of its own, or a batch with a row of it."""

    @property
    def futures(self) -> "Iterable[asyncio.Future[Any]]":
        """Of the clients that wait for it."""

    @property
    def deadline(self) -> float:
        """Until when they wait, on the clock of `time.monotonic`."""

    def end(self, outcome: Reply | CarryError) -> None:
        """Answer them, once."""


class Queued(Head, Protocol):
    """A request that waits for those of its session before it."""

    @property
    def lane(self) -> "Lane": ...


class Lane:
    """A session's turn in flight, those behind it, and its record and step as last seen.

    `worker` is that of its model; it is set when the record was found to fit it. `is_plain` says
    that steps of it can be committed by the batch: rows, of which one reply is kept.
    """

    __slots__ = ("head", "is_plain", "is_used", "key", "record", "step", "waiting", "worker")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.record: Record | None = None
        self.step = 0
        self.worker: Worker | None = None
        self.is_plain = False
        self.head: Head | None = None
        self.waiting: deque[Queued] | None = None
        self.is_used = False


class Lanes:
    """All lanes of a process: about `max_cached` idle ones keep their record."""

    def __init__(self, max_cached: int) -> None:
        self._max_cached = max_cached
        self._lanes: OrderedDict[Key, Lane] = OrderedDict()
        self._began: list[Lane] = []
        self._num_busy = 0
        self.state_bytes = 0
        self.watchers: dict[Key, list[Callable[[Record], None]]] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    def cached(self, key: Key) -> Record | None:
        """The record as last seen: a guess."""
        lane = self._lanes.get(key)
        return lane.record if lane else None

    def cached_model(self, key: Key) -> LoadedModel | None:
        """The model of the session as last seen: a guess as well."""
        lane = self._lanes.get(key)
        return lane.worker.model if lane and lane.worker else None

    def lane_of(self, key: Key) -> Lane:
        """The lane of a session, until its last turn is over."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
        return lane

    def join(self, turn: Queued) -> bool:
        """Put a turn behind the others of its lane; True if it is the head.

        Raises:
            QueueFullError: too many requests of this session wait already.
        """
        lane = turn.lane
        if lane.head is None:
            self.begin(lane, turn)
            return True
        if lane.waiting is None:
            lane.waiting = deque()
        if len(lane.waiting) >= _MAX_WAITING_TURNS - 1:
            raise QueueFullError(
                case("session-queue-full", session=lane.key.name, num_waiting=_MAX_WAITING_TURNS),
                retry_after_s=1,
            )
        lane.waiting.append(turn)
        return False

    def begin(self, lane: Lane, head: Head) -> None:
        """Head an idle lane."""
        lane.head = head
        lane.is_used = lane.record is not None
        self._num_busy += 1
        self._began.append(lane)

    def next(self, lane: Lane) -> Queued | None:
        """The head of the lane is over: the next turn, if there is one."""
        if lane.waiting:
            lane.head = following = lane.waiting.popleft()
            return following
        lane.head = None
        self._num_busy -= 1
        if lane.record is None:
            self._drop(lane)
        elif len(self._lanes) - self._num_busy > self._max_cached:
            self._drop(self._least_used(lane))
        return None

    def remember(self, lane: Lane, record: Record | None) -> None:
        """Set what the lane believes the store holds."""
        if lane.record is not None:
            self.state_bytes -= len(lane.record.data)
        lane.worker = None
        lane.is_plain = False
        if record is not None and self.watchers:
            self._show(lane.key, record)
        if record is None or record.closed:
            lane.record = None
            return
        self.state_bytes += len(record.data)
        lane.record = record
        lane.step = record.step

    def stepped(self, lane: Lane, record: Record, step: int) -> None:
        """As `remember`, after a step of the session that it holds."""
        if lane.record is not None:
            self.state_bytes += len(record.data) - len(lane.record.data)
            lane.record = record
            lane.step = step
        if self.watchers:
            self._show(lane.key, record)

    def forget(self, key: Key) -> None:
        """Keep nothing of a session that is gone, unless somebody asks for it just now."""
        lane = self._lanes.get(key)
        if lane is not None and lane.head is None:
            self._drop(lane)

    async def forget_worker(self, worker: Worker) -> None:
        """Let every lane find its worker anew; others go on between a few thousand of them."""
        for number, lane in enumerate(list(self._lanes.values()), start=1):
            if lane.worker is worker:
                lane.worker = None
                lane.is_plain = False
            if number % _LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def turns(self) -> list[Head]:
        """Every turn that has not ended. Called now and then: it forgets which lanes came to rest.

        What began since the last call is noted by its lane alone, so that a turn that has ended
        keeps nothing alive.
        """
        turns: list[Head] = []
        self._began = [lane for lane in dict.fromkeys(self._began) if lane.head is not None]
        for lane in self._began:
            if lane.head is not None:
                turns += [lane.head, *(lane.waiting or ())]
        return turns

    def _show(self, key: Key, record: Record) -> None:
        for watcher in self.watchers.get(key, ()):
            watcher(record)

    def _least_used(self, found: Lane) -> Lane:
        """Of a few of the oldest lanes, one that nobody used for a round; else any idle one."""
        for _ in range(_LOOKS):
            lane = next(iter(self._lanes.values()))
            self._lanes.move_to_end(lane.key)
            if lane.head is None:
                if not lane.is_used:
                    return lane
                lane.is_used = False
                found = lane
        return found

    def _drop(self, lane: Lane) -> None:
        self.remember(lane, None)
        del self._lanes[lane.key]
