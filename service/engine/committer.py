"""Group commit: whatever became ready while the store was busy is its next transaction.

Rule 1: one group is in flight at a time; there is no timer.
Rule 2: `on_done` is called exactly once for each write, with its outcome or with the store's error.
Rule 3: the number of waiting writes is bounded by the number of sessions with a request in flight.

The task is owned by the engine, which cancels it when it closes.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from service.engine.events import Observer
from service.errors import CarryError, StoreUnavailableError
from service.stores.base import Outcome, Store, Write

OnCommitted = Callable[[Outcome | CarryError], None]

_MAX_GROUP = 1024


class Committer:
    """Writes records to the store in groups."""

    def __init__(self, store: Store, observer: Observer) -> None:
        self._store = store
        self._observer = observer
        self._waiting: list[tuple[Write, OnCommitted]] = []
        self._wake = asyncio.Event()

    def put(self, write: Write, on_done: OnCommitted) -> None:
        """Queue one write for the next group."""
        self._waiting.append((write, on_done))
        self._wake.set()

    async def run(self) -> None:
        """Commit group after group, for as long as the task lives."""
        while True:
            await self._wake.wait()
            group, self._waiting = self._waiting[:_MAX_GROUP], self._waiting[_MAX_GROUP:]
            if not self._waiting:
                self._wake.clear()
            started = time.perf_counter()
            outcomes = await self._commit([write for write, _ in group])
            for (_, on_done), outcome in zip(group, outcomes, strict=True):
                on_done(outcome)
            self._observer.group_committed(len(group), time.perf_counter() - started)

    async def _commit(self, writes: list[Write]) -> Sequence[Outcome | CarryError]:
        try:
            return await self._store.commit(writes)
        except StoreUnavailableError as error:
            self._observer.store_failed()
            return [error] * len(writes)
        except Exception as error:  # the boundary: no defect of a store may leave clients waiting
            self._observer.store_failed()
            problem = StoreUnavailableError(
                f"the session store failed ({type(error).__name__}); whether this request was"
                " applied is not known: repeat it with its step",
                retry_after_s=1,
            )
            problem.__cause__ = error
            return [problem] * len(writes)
