"""Lanes: the requests of one session, one at a time, in the order in which they came.

Rule 1: the turn at the head of a lane is the only one in flight; it ends exactly once.
Rule 2: a lane's cached record is a guess. It is dropped whenever a write was refused or its
        outcome is not known, and with the lane when the cache is full.
Rule 3: a lane with waiting turns is never dropped; idle ones leave oldest first.
"""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from service.contract.text import TextCursor
from service.engine.requests import SessionRequest
from service.engine.session import Apply, Reply
from service.errors import CarryError, QueueFullError
from service.stores.record import Key, PackedOutputs, Record

_MAX_WAITING_TURNS = 1024


@dataclass(slots=True, eq=False)
class Lane:
    """A session's waiting turns, the head being in flight, and its record as last seen."""

    key: Key
    record: Record | None = None
    turns: "deque[Turn]" = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Turn:
    """One request of a session, the client that waits for it, and how far it has come."""

    lane: Lane
    request: SessionRequest
    future: "asyncio.Future[Reply]"
    deadline: float
    apply: Apply | None = None
    cursor: TextCursor | None = None
    written: Record | None = None
    outputs: PackedOutputs = b""
    num_lost_races: int = 0

    def end(self, outcome: Reply | CarryError) -> None:
        if self.future.done():  # the client left; what was committed stays committed
            return
        if isinstance(outcome, CarryError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Lanes:
    """All lanes of a process: at most `max_cached` idle ones keep their record."""

    def __init__(self, max_cached: int) -> None:
        self._max_cached = max_cached
        self._lanes: OrderedDict[Key, Lane] = OrderedDict()
        self.state_bytes = 0

    def __len__(self) -> int:
        return len(self._lanes)

    def cached(self, key: Key) -> Record | None:
        """The record as last seen: a guess."""
        lane = self._lanes.get(key)
        return lane.record if lane else None

    def fail_all(self, error: CarryError) -> None:
        """Answer every waiting turn with `error`: the engine will not go on."""
        for lane in self._lanes.values():
            for turn in lane.turns:
                turn.end(error)

    def join(
        self, key: Key, request: SessionRequest, future: "asyncio.Future[Reply]", deadline: float
    ) -> Turn:
        """Put a request behind the others of its session.

        Raises:
            QueueFullError: too many requests of this session wait already.
        """
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
        if len(lane.turns) >= _MAX_WAITING_TURNS:
            raise QueueFullError(
                f"session {key.name!r} has {_MAX_WAITING_TURNS} requests waiting; nothing was"
                " applied: send fewer at once",
                retry_after_s=1,
            )
        turn = Turn(lane, request, future, deadline)
        lane.turns.append(turn)
        return turn

    def remember(self, lane: Lane, record: Record | None) -> None:
        """Set what the lane believes the store holds."""
        self.state_bytes += len(record.state) if record else 0
        self.state_bytes -= len(lane.record.state) if lane.record else 0
        lane.record = record

    def rest(self, lane: Lane) -> None:
        """Called when a lane has no turn left: keep it as the newest, and drop the oldest."""
        if lane.record is None:
            del self._lanes[lane.key]
            return
        self._lanes.move_to_end(lane.key)
        while len(self._lanes) > self._max_cached:
            idle = next((old for old in self._lanes.values() if not old.turns), None)
            if idle is None:
                return
            self.remember(idle, None)
            del self._lanes[idle.key]
