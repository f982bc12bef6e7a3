"""The write-ahead log of an SQLite file: when it is synced, and when it is checkpointed.

Rule 1: SQLite passes a commit to the operating system without a sync (synchronous=NORMAL). `sync`
        returns when everything written before the call is on disk. Together they are equivalent to
        synchronous=FULL, but the next group can be written during the sync.
Rule 2: a checkpoint runs in two parts. A passive one moves most of the log into the database file
        while commits continue; then the store waits for the short rest, and the log restarts.
        `log_size` decides when.
Rule 3: syncs and checkpoints have a thread each, so that neither waits for the other.
Rule 4: one sync runs at a time, and all requests that arrive during it share the next one, so that
        a request waits for at most two.
Rule 5: after a failed sync the operating system may have dropped the pages, and the next sync may
        succeed with a hole in the log. So the whole log is first moved into the database file,
        which SQLite syncs, and no write is acknowledged before that.
Rule 6: a checkpoint must never start on a log that is already moved: SQLite before 3.51.3 can
        damage the file if another process restarts the log at that moment. So one process
        checkpoints at a time (a lock on the log file), and each writes a page first.
Rule 7: a log without writes for some seconds is moved and its file truncated.
Rule 8: nothing is moved into a database file that was replaced or truncated.
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

from service.stores.record.record import Record
from service.stores.sqlite import log_size as sqlite_log_size
from service.stores.sqlite.connection import (
    close,
    connected,
    num_log_frames_of,
    rows_of,
    wait_at_most,
)
from service.stores.sqlite.file import PAGE_BYTES, SqliteFile
from service.stores.sqlite.identity import FileIdentity
from service.stores.sqlite.log_size import FRAME_HEADER_BYTES, LogSize
from service.work_thread import WorkThread

log = structlog.get_logger()

# A long log of a few sessions is cheap to move, because each of their pages is written once. The
# number of distinct pages is bounded as well, because commits wait for the disk that they go to.
_CHECKPOINT_PAGES = 512

# The second part of a checkpoint waits for readers of the log, and commits wait for it. A reader
# such as a backup may take long, so it is given up after this time and retried later.
_BUSY_TIMEOUT_S = 0.1

# Readiness probes write one frame each, and a log with no more than that is idle. A short file is
# not truncated, because extending it again costs more than overwriting it.
_IDLE_AFTER_S = 5.0
_IDLE_FRAMES = 32
_SHORT_BYTES = 2**20

# Linux only; elsewhere fsync, which also writes the metadata of the file.
_sync = getattr(os, "fdatasync", os.fsync)


class _SharedSync:
    """One sync for all requests that arrived before it started."""

    def __init__(self, call: Callable[[], None], waiters: "list[asyncio.Future[None]]") -> None:
        self.waiters = waiters
        self.error: Exception | None = None
        self._call = call

    def run(self) -> None:
        try:
            self._call()
        except Exception as error:
            self.error = error


class WriteAheadLog:
    """Owned by the store, which opens it after its first transaction and closes it first."""

    def __init__(self, path: Path, identity: FileIdentity) -> None:
        self._path = path
        self._identity = identity
        self._pages: set[int] = set()
        self._sync_thread = WorkThread("sqlite-sync", self._on_synced)
        self._checkpoint_thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-checkpoint")
        self._running: asyncio.Future[None] | None = None
        self._needs_restart = self._is_restarting = False
        self._idle_timer: asyncio.TimerHandle | None = None
        self._frames_at_last_check = -1
        self._is_closing = False
        self._is_syncing = False
        self._waiters: list[asyncio.Future[None]] = []
        self._may_have_hole = False
        self._file: int
        self._db: apsw.Connection
        self._application_id: int
        self._size: LogSize

    def open(self, *writers: SqliteFile) -> None:
        """`writers`: the connections by which the store commits."""
        self._file = os.open(f"{self._path}-wal", os.O_RDWR)
        self._db = connected(self._path)
        wait_at_most(self._db, _BUSY_TIMEOUT_S)
        self._db.execute("PRAGMA wal_autocheckpoint = 0")
        self._db.execute("PRAGMA synchronous = NORMAL")
        [(self._application_id,)] = rows_of(self._db, "PRAGMA application_id")
        [(page_bytes,)] = rows_of(self._db, "PRAGMA page_size")
        frame_bytes = FRAME_HEADER_BYTES + page_bytes
        try:
            self._identity.open(self._file, frame_bytes, num_log_frames_of(self._db))
        except BaseException:
            close(self._db, may_checkpoint=False)
            os.close(self._file)
            raise
        # A killed process may have left a long log.
        if os.fstat(self._file).st_size > sqlite_log_size.CHECKPOINT_BYTES:
            self._try_checkpoint("TRUNCATE")
        self._size = LogSize(frame_bytes, num_log_frames_of(self._db))
        for writer in writers:
            writer.call_on_commit(self._on_commit)

    async def sync(self) -> None:
        """Return when everything written before the call is on disk."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if not self._is_syncing:
            self._start_sync()
        await waiter

    async def before_write(self) -> None:
        """Wait for a checkpoint if the log is full or has to be restarted."""
        if self._running is not None and self._size.is_full:
            await asyncio.wait({self._running})
        if self._needs_restart:
            await self._restart_log()

    def after_write(self, records: Sequence[Record] = ()) -> None:
        """Start a checkpoint if the log is long."""
        for record in records:
            # Neighbours share a page.
            self._pages.add(record.rowid * len(record.data) // PAGE_BYTES)
        is_due = self._size.is_due or len(self._pages) >= _CHECKPOINT_PAGES
        if is_due and not (self._running or self._needs_restart or self._is_restarting):
            self._pages.clear()
            self._running = self._checkpoint()
            self._running.add_done_callback(self._on_passive_done)
        if self._idle_timer is None:
            self._start_idle_timer()

    def checkpoint_all(self) -> None:
        """Move the whole log into the database file, because the log's path was removed."""
        if self._running is not None:  # what it moves may not be all
            self._running.add_done_callback(lambda _: self.checkpoint_all())
            return
        self._running = self._checkpoint("RESTART")
        self._running.add_done_callback(self._on_done)

    async def close(self) -> None:
        self._is_closing = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        while self._is_syncing:
            with suppress(Exception):  # its waiters receive the error
                await self.sync()
        while self._running is not None:
            await self._running
            await asyncio.sleep(0)  # until its callbacks have run
        self._sync_thread.close()
        self._checkpoint_thread.shutdown()
        close(self._db, may_checkpoint=self._identity.allows_checkpoint)
        os.close(self._file)

    def _start_sync(self) -> None:
        waiters, self._waiters = self._waiters, []
        self._is_syncing = True
        if self._may_have_hole:
            sync = _SharedSync(self._checkpoint_and_sync, waiters)
            loop = asyncio.get_running_loop()
            done = loop.run_in_executor(self._checkpoint_thread, sync.run)
            done.add_done_callback(lambda _: self._on_synced(sync))
        else:
            self._sync_thread.put(_SharedSync(partial(_sync, self._file), waiters))

    def _on_synced(self, sync: "_SharedSync") -> None:
        self._may_have_hole = sync.error is not None
        for waiter in sync.waiters:
            if waiter.done():  # cancelled
                continue
            if sync.error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(sync.error)
        self._is_syncing = False
        if self._waiters:
            self._start_sync()

    def _checkpoint_and_sync(self) -> None:
        """Move the whole log into the database file from the system's memory, and sync: rule 5."""
        try:
            is_busy, num_pages, num_moved = self._checkpoint_locked("RESTART")
        except apsw.Error as error:
            raise OSError(f"an earlier sync failed, and the checkpoint too: {error}") from None
        if is_busy or num_moved != num_pages:
            raise OSError("an earlier sync failed, and the checkpoint is not complete yet")
        _sync(self._file)

    def _checkpoint(self, mode: str = "PASSIVE") -> "asyncio.Future[None]":
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._checkpoint_thread, self._try_checkpoint, mode)

    def mark_suspect(self) -> None:
        """SQLite has failed: the end of the log may be missing."""
        self._identity.log_grew(self._size.num_frames, self._size.num_frames + 1)

    def _on_commit(self, _: apsw.Connection, __: str, num_frames: int) -> int:
        """Called on the thread that committed."""
        self._identity.log_grew(self._size.num_frames, num_frames)
        self._size.grew_to(num_frames)
        return apsw.SQLITE_OK

    def _on_passive_done(self, _: "asyncio.Future[None]") -> None:
        self._running = None
        self._needs_restart = True

    def _on_done(self, _: "asyncio.Future[None]") -> None:
        self._running = None

    async def _restart_log(self) -> None:
        """Move what was written during the passive checkpoint; the next commit restarts the log."""
        self._needs_restart, self._is_restarting = False, True
        num_frames = self._size.num_frames
        try:
            await self._checkpoint("RESTART")
        finally:
            self._is_restarting = False
            self._size.checkpoint_ended(num_frames)

    def _start_idle_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._idle_timer = loop.call_later(_IDLE_AFTER_S, self._check_idle)

    def _check_idle(self) -> None:
        if self._running is not None or self._is_restarting:
            self._start_idle_timer()
            return
        loop = asyncio.get_running_loop()
        self._running = loop.run_in_executor(self._checkpoint_thread, self._truncate_if_idle)
        self._running.add_done_callback(self._on_idle_checked)

    def _on_idle_checked(self, _: "asyncio.Future[None]") -> None:
        self._running = self._idle_timer = None
        # A write during the check has not started a timer.
        if not self._is_closing and os.fstat(self._file).st_size > _SHORT_BYTES:
            self._start_idle_timer()

    def _truncate_if_idle(self) -> None:
        """The first process that finds the log idle truncates it for all."""
        if os.fstat(self._file).st_size <= _SHORT_BYTES:
            return
        with suppress(apsw.Error):
            num_frames = num_log_frames_of(self._db)
            before, self._frames_at_last_check = self._frames_at_last_check, num_frames
            if 0 <= before <= num_frames < before + _IDLE_FRAMES:
                self._try_checkpoint("TRUNCATE")

    def _try_checkpoint(self, mode: str) -> None:
        try:
            self._checkpoint_locked(mode)
        except (apsw.Error, OSError) as error:  # commits continue
            log.warning("checkpoint failed, will retry", reason=str(error))

    def _checkpoint_locked(self, mode: str) -> tuple[int, int, int]:
        """Run a checkpoint as rule 6 says.

        Returns:
            Whether another connection kept it from finishing, the log's pages, and those moved.
        """
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            if not self._identity.allows_checkpoint:
                raise OSError("the files of the session store were replaced, removed or truncated")
            self._db.execute(f"PRAGMA application_id = {self._application_id}")
            [row] = rows_of(self._db, f"PRAGMA wal_checkpoint({mode})")
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        result: tuple[int, int, int] = row
        return result
