"""The write-ahead log beside an SQLite file: when it is synced, and when it is taken up.

Rule 1: SQLite hands a commit to the system without syncing (synchronous=NORMAL); `sync` returns
        when everything that was written before it was called is on the disk. The two together are
        what synchronous=FULL does in one, but the next group can be written during the sync.
Rule 2: taking up the log (a checkpoint) moves most of it while commits go on, and the rest, which
        is little, while the store waits. So the log does not grow, and only its end is waited for.
Rule 3: a sync and a checkpoint never wait for each other: each has its own thread.
Rule 4: one sync is under way at a time, and all who ask during it share the next: after a slow one
        nobody waits for more than one other.
Rule 5: the system may forget what it could not sync and call the next sync a success, with a hole
        in the log before what that one wrote. So behind a failed sync everything is moved out of
        the log first, into the synced file, and nothing is acknowledged before.
Rule 6: a checkpoint never begins on a log that is moved already: SQLite before 3.51.3 may damage
        the file if another process begins the log anew at that moment. So one process moves it at
        a time (a lock on the log's file), and each writes a page to it first.
"""

import asyncio
import fcntl
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import apsw
import structlog

from service.stores.record import Record
from service.stores.sqlite_connection import connected, rows_of, wait_at_most
from service.stores.sqlite_file import PAGE_BYTES
from service.work_thread import WorkThread

log = structlog.get_logger()

# Much of the same few sessions is cheap to move, for each of their pages is written once; what is
# bounded for strangers is the pages, because commits wait for the disk that these go to.
_CHECKPOINT_BYTES = 16 * 2**20
_CHECKPOINT_PAGES = 512

# To finish a checkpoint takes that nobody reads the log. Somebody may do so for long, as a backup
# does, and commits wait meanwhile: so it is left to a later one.
_PATIENCE_S = 0.1

# Elsewhere than on Linux the one that exists does more than is needed.
_sync = getattr(os, "fdatasync", os.fsync)


class _Sync:
    """One call for the disk, on behalf of all who asked before it."""

    def __init__(self, call: Callable[[], None], asked: "list[asyncio.Future[None]]") -> None:
        self.asked = asked
        self.error: Exception | None = None
        self._call = call

    def run(self) -> None:
        try:
            self._call()
        except Exception as error:
            self.error = error


class WriteAheadLog:
    """Owned by the store, which opens it behind its first transaction and closes it before itself.

    `is_checkpoint_wanted` tells that `finish_checkpoint` should be called before the next commit.
    """

    def __init__(self, path: Path) -> None:
        self.is_checkpoint_wanted = False
        self._path = path
        self._num_bytes = 0
        self._pages: set[int] = set()
        self._sync_thread = WorkThread("sqlite-sync", self._on_synced)
        self._checkpoint_thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-checkpoint")
        self._under_way: asyncio.Future[None] | None = None
        self._is_syncing = False
        self._asked: list[asyncio.Future[None]] = []
        self._may_have_a_hole = False
        self._file: int
        self._db: apsw.Connection
        self._application_id: int

    def open(self) -> None:
        self._file = os.open(f"{self._path}-wal", os.O_RDWR)
        self._db = connected(self._path)
        wait_at_most(self._db, _PATIENCE_S)
        self._db.execute("PRAGMA wal_autocheckpoint = 0")
        self._db.execute("PRAGMA synchronous = NORMAL")
        [(self._application_id,)] = rows_of(self._db, "PRAGMA application_id")

    async def sync(self) -> None:
        """Return when all that was written before is on the disk."""
        asked = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        if not self._is_syncing:
            self._begin_sync()
        await asked

    def wrote(self, records: Sequence[Record]) -> None:
        """Count what was written; begin a checkpoint when it is much."""
        for record in records:
            num_bytes = len(record.data)
            self._num_bytes += num_bytes
            self._pages.add(record.place * num_bytes // PAGE_BYTES)  # neighbours share a page
        self._begin_if_much()

    def wrote_bytes(self, num_bytes: int) -> None:
        """As `wrote`, of what is no record."""
        self._num_bytes += num_bytes
        self._begin_if_much()

    def _begin_if_much(self) -> None:
        is_much = self._num_bytes >= _CHECKPOINT_BYTES or len(self._pages) >= _CHECKPOINT_PAGES
        if is_much and self._under_way is None:
            self._num_bytes = 0
            self._pages.clear()
            self._under_way = self._checkpoint()
            self._under_way.add_done_callback(self._on_most_moved)

    async def finish_checkpoint(self) -> None:
        """Move what was written during the checkpoint; the next commit begins the log anew."""
        self.is_checkpoint_wanted = False
        await self._checkpoint("RESTART")

    async def close(self) -> None:
        while self._is_syncing:
            with suppress(Exception):  # those who asked are told; here only its end matters
                await self.sync()
        if self._under_way is not None:
            await self._under_way
        self._sync_thread.close()
        self._checkpoint_thread.shutdown()
        self._db.close()
        os.close(self._file)

    def _begin_sync(self) -> None:
        asked, self._asked = self._asked, []
        self._is_syncing = True
        if self._may_have_a_hole:
            moving = _Sync(self._move_and_sync, asked)
            loop = asyncio.get_running_loop()
            moved = loop.run_in_executor(self._checkpoint_thread, moving.run)
            moved.add_done_callback(lambda _: self._on_synced(moving))
        else:
            self._sync_thread.put(_Sync(partial(_sync, self._file), asked))

    def _on_synced(self, sync: "_Sync") -> None:
        self._may_have_a_hole = sync.error is not None
        for each in sync.asked:
            if each.done():  # nobody waits any more
                continue
            if sync.error is None:
                each.set_result(None)
            else:
                each.set_exception(sync.error)
        self._is_syncing = False
        if self._asked:
            self._begin_sync()

    def _move_and_sync(self) -> None:
        """Move all of the log into the file, as the system still holds it in memory."""
        try:
            is_busy, num_pages, num_moved = self._run_checkpoint("RESTART")
        except apsw.Error as error:
            raise OSError(f"an earlier sync failed, and the log cannot be moved: {error}") from None
        if is_busy or num_moved != num_pages:
            raise OSError("an earlier sync failed, and the log could not be moved yet")
        _sync(self._file)

    def _checkpoint(self, how: str = "PASSIVE") -> "asyncio.Future[None]":
        return asyncio.get_running_loop().run_in_executor(self._checkpoint_thread, self._move, how)

    def _on_most_moved(self, _: "asyncio.Future[None]") -> None:
        self._under_way = None
        self.is_checkpoint_wanted = True

    def _move(self, how: str) -> None:
        try:
            self._run_checkpoint(how)
        except apsw.Error as error:  # commits go on without it; it is tried again with more
            log.warning("checkpoint failed, will try again", reason=str(error))

    def _run_checkpoint(self, how: str) -> tuple[int, int, int]:
        """Whether it was kept from finishing, pages of the log, and those moved: see rule 6."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            self._db.execute(f"PRAGMA application_id = {self._application_id}")
            [told] = rows_of(self._db, f"PRAGMA wal_checkpoint({how})")
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        result: tuple[int, int, int] = told
        return result
