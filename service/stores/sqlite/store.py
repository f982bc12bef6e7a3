"""Sessions in one SQLite file: the durable store that needs no server.

Rule 1: a group of writes is one transaction, and is acknowledged when it is as durable as promised.
        With `process` it survives a killed process, because the operating system has it. With
        `power` the log is also synced, in a thread, while the next group may be written.
Rule 2: a short group is written on the caller's thread without waiting, because that is cheaper
        than a change of threads. A long group, or one that finds the file locked, goes to the
        store's thread, which waits.
Rule 3: several processes may share the file: each transaction takes the write lock at its start
        and compares every revision under it.
Rule 4: no request is answered from files that are not those that were opened; see `identity`.
Rule 5: a file of another program or of a later service is refused and not modified.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NoReturn, TypeVar

import apsw
import structlog

from service.errors import StartUpError, StoreUnavailableError
from service.stores.base import Expired, Usage, Write, read_for_list
from service.stores.record.record import Key, Record
from service.stores.sqlite.errors import FAILURES, files_changed, unavailable
from service.stores.sqlite.file import SqliteFile
from service.stores.sqlite.identity import FileIdentity
from service.stores.sqlite.log import WriteAheadLog
from service.wordings import case

log = structlog.get_logger()

T = TypeVar("T")

DURABILITIES: Final = ("power", "process")
_BUSY_TIMEOUT_S: Final = 5.0
_INLINE_S: Final = 0.002


class SqliteStore:
    """Open with `SqliteStore.open`."""

    def __init__(self, path: Path, durability: str, clock: Callable[[], float]) -> None:
        self.durability = durability
        self.waits = durability == "power"
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        # The connection of the caller's thread never waits for a lock; that of the store's does.
        self._inline_file = SqliteFile(path, clock, busy_timeout_s=0.0)
        self._thread_file = SqliteFile(path, clock, busy_timeout_s=_BUSY_TIMEOUT_S)
        inline = self._inline_file
        self._identity = FileIdentity(path, inline.count_bytes, inline.count_log_frames)
        self._log = WriteAheadLog(path, self._identity)
        self._row_s = 0.0

    @classmethod
    def open(
        cls, path: str | Path, durability: str, clock: Callable[[], float] = time.time
    ) -> "SqliteStore":
        """Open or create the file.

        Raises:
            StartUpError: an unknown durability, or a file that cannot be used.
        """
        if durability not in DURABILITIES:
            raise StartUpError(
                f"CARRY_DURABILITY is {durability!r}: expected one of {sorted(DURABILITIES)}"
            )
        store = cls(Path(path), durability, clock)
        with ExitStack() as undo:
            undo.callback(store._thread.shutdown)
            for file in (store._thread_file, store._inline_file):
                store._thread.submit(file.connect).result()
                undo.callback(file.close, may_checkpoint=False)
            store._log.open(store._inline_file, store._thread_file)
            undo.pop_all()
        return store

    async def load(self, key: Key) -> Record | None:
        found = await self._call(lambda: self._thread_file.load(key))
        if self.durability == "power":
            # Another process may have written this without a sync yet, and a reply may use it.
            await self._sync()
        self._refuse_if_changed()
        return found

    async def commit(self, writes: Sequence[Write]) -> list[Record | None]:
        await self._prepare_to_write()
        records = self._commit_inline(writes)
        if records is None:
            records = await self._call(lambda: self._thread_file.commit(writes))
        await self._finish_write([record for record in records if record is not None])
        return records

    async def list_live(
        self, tenant: str, model: str | None, after: str, limit: int
    ) -> list[Record]:
        rows = await self._call(lambda: self._thread_file.list_live(tenant, model, after, limit))
        self._refuse_if_changed()
        return [record for row in rows if (record := read_for_list(row)) is not None]

    async def usage(self, tenant: str) -> Usage:
        usage = await self._call(lambda: self._thread_file.usage(tenant))
        self._refuse_if_changed()
        return usage

    async def sweep(self, limit: int) -> list[Expired]:
        await self._prepare_to_write()
        expired = await self._call(lambda: self._thread_file.sweep(limit))
        self._log.after_write()
        self._refuse_if_changed()
        return expired

    async def read_value(self, name: str) -> bytes:
        value = await self._call(lambda: self._thread_file.read_value(name))
        self._refuse_if_changed()
        return value

    async def swap_value(self, name: str, old: bytes, new: bytes) -> bool:
        await self._prepare_to_write()
        is_swapped = await self._call(lambda: self._thread_file.swap_value(name, old, new))
        await self._finish_write()
        return is_swapped

    async def now(self) -> float:
        return self._clock()

    async def check(self) -> None:
        self._refuse_if_changed()
        await self._prepare_to_write()
        await self._call(self._thread_file.check)
        await self._finish_write()

    async def close(self) -> None:
        await self._log.close()
        may_checkpoint = self._identity.allows_checkpoint
        self._inline_file.close(may_checkpoint=may_checkpoint)
        await self._in_thread(lambda: self._thread_file.close(may_checkpoint=may_checkpoint))
        self._thread.shutdown()

    def _commit_inline(self, writes: Sequence[Write]) -> list[Record | None] | None:
        """Write on the caller's thread; None if that would take long or the file is locked."""
        if len(writes) * self._row_s > _INLINE_S:
            self._row_s *= 0.9  # so that one slow commit does not decide for ever
            return None
        started = time.perf_counter()
        try:
            records = self._inline_file.commit(writes)
        except apsw.BusyError:
            return None
        except apsw.Error as error:
            self._fail(error)
        row_s = (time.perf_counter() - started) / len(writes)
        self._row_s += 0.05 * (row_s - self._row_s)
        return records

    async def _sync(self) -> None:
        try:
            await self._log.sync()
        except OSError as error:
            raise StoreUnavailableError(
                case(
                    "outcome-unknown",
                    what=f"the session store could not be synced to disk ({error})",
                ),
                retry_after_s=1,
            ) from error

    async def _prepare_to_write(self) -> None:
        if self._identity.change is not None:
            self._refuse_if_changed()
        await self._log.before_write()

    async def _finish_write(self, records: Sequence[Record] = ()) -> None:
        """Return when a write is as durable as promised."""
        if self._identity.is_suspect:
            self._refuse_if_changed(was_written=True)
        if self.durability == "power":
            await self._sync()
        self._log.after_write(records)
        self._refuse_if_changed(was_written=True)

    def _refuse_if_changed(self, *, was_written: bool = False) -> None:
        before = self._identity.change
        change = self._identity.check()
        if change != before:
            self._log_change(change)
        if change is not None:
            raise files_changed(change, was_written=was_written)

    def _log_change(self, change: str | None) -> None:
        if change is None:
            log.info("the files of the session store are usable again")
            return
        log.error(
            "the files of the session store have changed, requests are refused", reason=change
        )
        if self._identity.allows_checkpoint:
            self._log.checkpoint_all()

    def _fail(self, error: apsw.Error | UnicodeDecodeError) -> NoReturn:
        """Raise the error of a request that SQLite failed, perhaps because its files changed."""
        self._log.mark_suspect()
        try:
            self._refuse_if_changed()
        except StoreUnavailableError as refusal:
            raise refusal from None  # `_log_change` has logged the cause, once
        raise unavailable(error) from error

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await self._in_thread(work)
        except FAILURES as error:
            self._fail(error)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
