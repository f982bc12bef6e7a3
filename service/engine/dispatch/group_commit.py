"""Group commit: whatever became ready while the store was busy is its next transaction.

Rule 1: there is no timer. One group is in flight at a time, or a few where the store waits for
        something else than the processor: a session has one write in flight, so groups never
        depend on one another.
Rule 2: writes that were put together are answered together, once, with an outcome for each.
Rule 3: a write whose answer was lost is read back (`read_back`), by its own group, for at most
        `_PATIENCE_S`.
Rule 4: the number of waiting writes is bounded by the number of sessions with a request in flight.
Rule 5: many writes let others go first, once: a store may hold the loop up while it writes them,
        and a batch that is ready must be in the graph meanwhile.

The task is owned by the engine, which cancels it when it closes.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from service.engine.dispatch.read_back import read_back
from service.engine.observer import Observer
from service.errors import CarryError, StoreUnavailableError
from service.stores.base import Store, Write, WritesFailedError
from service.stores.record.record import Record
from service.wordings import case

Answer = Callable[[Sequence[Record | CarryError | None]], None]
"""Takes, for each write, the record as kept, None if another writer was first, or an error."""

_MAX_GROUP = 256
_FEW = 8
_MAX_GROUPS = 3
_PATIENCE_S = 5.0


class Committer:
    """Writes records to the store in groups."""

    def __init__(self, store: Store, observer: Observer) -> None:
        self._store = store
        self._observer = observer
        self._parcels: list[tuple[list[Write], Answer]] = []
        self._wake = asyncio.Event()
        self._groups: set[asyncio.Task[None]] = set()

    def put(self, writes: list[Write], answer: Answer) -> None:
        """Queue writes for the next group; they are answered together."""
        self._parcels.append((writes, answer))
        self._wake.set()

    async def run(self) -> None:
        """Commit group after group, for as long as the task lives."""
        while True:
            await self._wake.wait()
            if self._is_much():
                await asyncio.sleep(0)
            await self._run_next_group()

    def _is_much(self) -> bool:
        return any(len(writes) > _FEW for writes, _ in self._parcels)

    async def _run_next_group(self) -> None:
        """A call of its own, so that the last group, and its model, is not held on to by `run`."""
        group = self._next_group()
        if not self._parcels:
            self._wake.clear()
        if not self._store.waits:
            await self._commit_group(group)
            return
        if group:
            task = asyncio.create_task(self._commit_group(group))
            task.add_done_callback(self._on_ended)
            self._groups.add(task)
        if len(self._groups) == _MAX_GROUPS:
            await asyncio.wait(self._groups, return_when=asyncio.FIRST_COMPLETED)
        for task in [task for task in self._groups if task.done()]:
            self._groups.discard(task)
            task.result()  # a defect of ours ends this task as well

    def _on_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._wake.set()  # `run` ends by it

    def _next_group(self) -> list[tuple[list[Write], Answer]]:
        num_writes, end = 0, 0
        while end < len(self._parcels) and num_writes < _MAX_GROUP:
            num_writes += len(self._parcels[end][0])
            end += 1
        group, self._parcels = self._parcels[:end], self._parcels[end:]
        return group

    async def _commit_group(self, group: list[tuple[list[Write], Answer]]) -> None:
        writes = group[0][0] if len(group) == 1 else [each for part, _ in group for each in part]
        started = time.perf_counter()
        outcomes = await self._commit(writes)
        self._observer.group_committed(len(writes), time.perf_counter() - started)
        start = 0
        for part, answer in group:
            answer(outcomes[start : start + len(part)])
            start += len(part)

    async def _commit(self, writes: list[Write]) -> Sequence[Record | CarryError | None]:
        try:
            return await self._store.commit(writes)
        except WritesFailedError as error:
            self._observer.store_failed()
            return await read_back(self._store, writes, error.outcomes, _PATIENCE_S)
        except StoreUnavailableError as error:
            self._observer.store_failed()
            return [error] * len(writes)
        except Exception as error:  # the boundary: no defect of a store may leave clients waiting
            self._observer.store_failed()
            problem = StoreUnavailableError(
                case("outcome-unknown", what=f"the session store failed ({type(error).__name__})"),
                retry_after_s=1,
            )
            problem.__cause__ = error
            return [problem] * len(writes)
