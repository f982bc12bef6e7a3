"""Sessions in one SQLite file: the durable store that needs no other server.

Rule 1: a group of writes is one transaction, and nothing of it is answered before it is as durable
        as promised. With `process` it survives a killed process: it was handed to the system. With
        `power` the log is synced as well, in a thread, while the next group may be written already.
Rule 2: a short group is written on the caller's own thread, without waiting for anybody: to hand it
        over costs more than to write it. What may take long, or finds the file locked, goes to the
        store's thread, which waits.
Rule 3: several processes may share the file: each transaction takes the write lock at its start
        and proves every revision under it.
Rule 4: nothing is answered from files that are no longer those that were opened; see
        `sqlite_identity`.
Rule 5: a file of another program, or of a later service, is refused and left untouched.
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
from service.stores.base import Expired, Usage, Write
from service.stores.record.record import Key, Record, RecordFormatError
from service.stores.sqlite.errors import FAILURES, changed, unavailable
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
        # One connection for the caller's thread, which never waits for a lock; one for the store's.
        self._here = SqliteFile(path, clock, busy_timeout_s=0.0)
        self._there = SqliteFile(path, clock, busy_timeout_s=_BUSY_TIMEOUT_S)
        self._identity = FileIdentity(path, self._here.count_bytes, self._here.count_log_frames)
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
            for file in (store._there, store._here):
                store._thread.submit(file.connect).result()
                undo.callback(file.close, may_move=False)
            store._log.open(store._here, store._there)
            undo.pop_all()
        return store

    async def load(self, key: Key) -> Record | None:
        found = await self._call(lambda: self._there.load(key))
        if self.durability == "power":
            # What another process wrote may not be synced yet, and this may become an answer.
            await self._sync()
        self._refuse_if_changed()
        return found

    async def commit(self, writes: Sequence[Write]) -> list[Record | None]:
        await self._prepare_to_write()
        kept = self._commit_here(writes)
        if kept is None:
            kept = await self._call(lambda: self._there.commit(writes))
        await self._settle([record for record in kept if record is not None])
        return kept

    async def list_live(
        self, tenant: str, model: str | None, after: str, limit: int
    ) -> list[Record]:
        rows = await self._call(lambda: self._there.list_live(tenant, model, after, limit))
        self._refuse_if_changed()
        return [record for row in rows if (record := _read(row)) is not None]

    async def usage(self, tenant: str) -> Usage:
        counted = await self._call(lambda: self._there.usage(tenant))
        self._refuse_if_changed()
        return counted

    async def sweep(self, limit: int) -> list[Expired]:
        await self._prepare_to_write()
        swept = await self._call(lambda: self._there.sweep(limit))
        self._log.wrote()
        self._refuse_if_changed()
        return swept

    async def read_value(self, name: str) -> bytes:
        value = await self._call(lambda: self._there.read_value(name))
        self._refuse_if_changed()
        return value

    async def swap_value(self, name: str, old: bytes, new: bytes) -> bool:
        await self._prepare_to_write()
        is_swapped = await self._call(lambda: self._there.swap_value(name, old, new))
        await self._settle()
        return is_swapped

    async def now(self) -> float:
        return self._clock()

    async def check(self) -> None:
        self._refuse_if_changed()
        await self._prepare_to_write()
        await self._call(self._there.check)
        await self._settle()

    async def close(self) -> None:
        await self._log.close()
        may_move = self._identity.may_be_moved_into
        self._here.close(may_move=may_move)
        await self._in_thread(lambda: self._there.close(may_move=may_move))
        self._thread.shutdown()

    def _commit_here(self, writes: Sequence[Write]) -> list[Record | None] | None:
        """Write on the caller's thread; None if that may take long or the file is locked."""
        if len(writes) * self._row_s > _INLINE_S:
            self._row_s *= 0.9  # it may have been a bad moment: try again some time
            return None
        started = time.perf_counter()
        try:
            kept = self._here.commit(writes)
        except apsw.BusyError:
            return None
        except apsw.Error as error:
            self._fail(error)
        row_s = (time.perf_counter() - started) / len(writes)
        self._row_s += 0.05 * (row_s - self._row_s)
        return kept

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
        await self._log.make_room()

    async def _settle(self, records: Sequence[Record] = ()) -> None:
        """Behind a write: return when it is as durable as promised."""
        if self._identity.is_suspect:
            self._refuse_if_changed(was_written=True)
        if self.durability == "power":
            await self._sync()
        self._log.wrote(records)
        self._refuse_if_changed(was_written=True)

    def _refuse_if_changed(self, *, was_written: bool = False) -> None:
        before = self._identity.change
        change = self._identity.look()
        if change != before:
            self._tell(change)
        if change is not None:
            raise changed(change, was_written=was_written)

    def _tell(self, change: str | None) -> None:
        if change is None:
            log.info("session store's files are back")
            return
        log.error("session store is not what was opened, requests are refused", reason=change)
        if self._identity.may_be_moved_into:
            self._log.save()

    def _fail(self, error: apsw.Error | UnicodeDecodeError) -> NoReturn:
        """Answer a request where SQLite failed: perhaps because its files were changed."""
        self._log.suspect()
        try:
            self._refuse_if_changed()
        except StoreUnavailableError as told:
            raise told from None  # `_tell` has logged the cause, once
        raise unavailable(error) from error

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await self._in_thread(work)
        except FAILURES as error:
            self._fail(error)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _read(read: Callable[[], Record]) -> Record | None:
    """A record for a list: one that cannot be read must not hide the others."""
    try:
        return read()
    except RecordFormatError as error:
        log.warning("record left out of a list", reason=error.detail)
        return None
