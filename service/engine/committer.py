"""Group commit: whatever became ready while the store was busy is its next transaction.

Rule 1: there is no timer. One group is in flight at a time, or a few where the store waits for
        something else than the processor: a session has one write in flight, so groups never
        depend on one another.
Rule 2: `on_group` is called once for each group, with the record as kept, None or the store's error
        for each write, in order.
Rule 3: the number of waiting writes is bounded by the number of sessions with a request in flight.

The task is owned by the engine, which cancels it when it closes.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from service.engine.events import Observer
from service.errors import CarryError, StoreUnavailableError
from service.stores.base import Store, Write
from service.stores.record import Record

Owner = TypeVar("Owner")

_MAX_GROUP = 256
_MAX_GROUPS = 3


class Committer(Generic[Owner]):
    """Writes records to the store in groups; `Owner` is what a write is answered to."""

    def __init__(
        self,
        store: Store,
        observer: Observer,
        on_group: Callable[[list[Owner], Sequence[Record | CarryError | None]], None],
    ) -> None:
        self._store = store
        self._observer = observer
        self._on_group = on_group
        self._writes: list[Write] = []
        self._owners: list[Owner] = []
        self._wake = asyncio.Event()
        self._groups: set[asyncio.Task[None]] = set()

    def put(self, writes: list[Write], owners: list[Owner]) -> None:
        """Queue writes for the next group."""
        self._writes += writes
        self._owners += owners
        self._wake.set()

    async def run(self) -> None:
        """Commit group after group, for as long as the task lives."""
        while True:
            await self._wake.wait()
            writes, self._writes = self._writes[:_MAX_GROUP], self._writes[_MAX_GROUP:]
            owners, self._owners = self._owners[:_MAX_GROUP], self._owners[_MAX_GROUP:]
            if not self._writes:
                self._wake.clear()
            if not self._store.waits:
                await self._commit_group(writes, owners)
                continue
            self._groups.add(asyncio.create_task(self._commit_group(writes, owners)))
            if len(self._groups) == _MAX_GROUPS:
                await asyncio.wait(self._groups, return_when=asyncio.FIRST_COMPLETED)
            for group in [group for group in self._groups if group.done()]:
                self._groups.discard(group)
                group.result()  # a defect of ours ends this task as well

    async def _commit_group(self, writes: list[Write], owners: list[Owner]) -> None:
        started = time.perf_counter()
        outcomes = await self._commit(writes)
        self._observer.group_committed(len(writes), time.perf_counter() - started)
        self._on_group(owners, outcomes)

    async def _commit(self, writes: list[Write]) -> Sequence[Record | CarryError | None]:
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
