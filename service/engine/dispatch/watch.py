"""Commits of one session, for its listeners: at once in this process, a little later elsewhere.

Rule 1: a commit of this process is noted as it happens; those of other replicas are found by
        reading the record every `poll_s` while somebody listens.
Rule 2: only what the record still keeps of its replies can be told. What is gone is told as a gap.
Rule 3: what is read while this process commits may be older than what it committed, and is not
        told: the next look reads again.
Rule 4: a listener that lags holds at most `_MAX_UNTOLD` replies; older ones become a gap.

A watch belongs to its listener, who enters and leaves it; nothing runs while nobody waits.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple, Self

from service.engine.dispatch.session_queues import SessionQueues
from service.engine.session.rules import Reply
from service.stores.base import Store
from service.stores.record.record import Key, Record

_MAX_UNTOLD = 1024


class Gap(NamedTuple):
    """Steps that were committed and cannot be told any more.

    `to_step` below `from_step`: the session went back.
    """

    from_step: int
    to_step: int


class Ended(NamedTuple):
    """The session has ended: deleted, final, expired or lost."""

    reason: str


Happening = Reply | Gap | Ended


class Watch:
    """Iterates over what happens to a session from `after_step` on."""

    def __init__(
        self,
        queues: SessionQueues,
        store: Store,
        key: Key,
        found: Record,
        after_step: int,
        poll_s: float,
    ) -> None:
        self._queues = queues
        self._store = store
        self._key = key
        self._step = after_step
        self._poll_s = poll_s
        self._untold: deque[Happening] = deque()
        self._num_taken = 0
        self._is_over = False
        self._came = asyncio.Event()
        self._take(found)

    def __enter__(self) -> Self:
        self._queues.watchers.setdefault(self._key, []).append(self._take)
        return self

    def __exit__(self, *_: object) -> None:
        watchers = self._queues.watchers[self._key]
        watchers.remove(self._take)
        if not watchers:
            del self._queues.watchers[self._key]

    async def __aiter__(self) -> AsyncIterator[Happening]:
        while True:
            while self._untold:
                yield self._untold.popleft()
            if self._is_over:
                return
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), self._poll_s)
            except TimeoutError:
                await self._look()

    async def _look(self) -> None:
        """Raises StoreUnavailableError, which ends the listening; clients come back."""
        num_taken = self._num_taken
        record = await self._store.load(self._key)
        now = await self._store.now()
        if self._num_taken != num_taken:
            return
        if record is None:
            self._end("gone")
        elif not record.closed and record.expires_at <= now:
            self._end("expired")
        else:
            self._take(record)

    def _take(self, record: Record) -> None:
        """A record was committed or read: tell what is new in it."""
        self._num_taken += 1
        if self._is_over:
            return
        if record.step < self._step:  # rewound, or another session of this name
            self._tell(Gap(self._step, record.step))
            self._step = record.step
        elif record.step > self._step:
            self._tell_replies(record)
        if record.closed:
            self._end(record.closed)

    def _tell_replies(self, record: Record) -> None:
        for kept in record.kept_replies:
            step = kept.from_step + kept.num_observed
            if step > self._step:
                if kept.from_step > self._step:
                    self._tell(Gap(self._step, kept.from_step))
                self._tell(Reply(record, step, kept.outputs))
                self._step = step
        if record.step > self._step:  # of these no reply is kept
            self._tell(Gap(self._step, record.step))
            self._step = record.step

    def _tell(self, happening: Happening) -> None:
        if len(self._untold) >= _MAX_UNTOLD:
            first, second = self._untold.popleft(), self._untold.popleft()
            start = first.from_step if isinstance(first, Gap) else first.step - 1  # type: ignore[union-attr]
            end = second.to_step if isinstance(second, Gap) else second.step  # type: ignore[union-attr]
            self._untold.appendleft(Gap(start, end))
        self._untold.append(happening)
        self._came.set()

    def _end(self, reason: str) -> None:
        self._is_over = True
        self._tell(Ended(reason))
