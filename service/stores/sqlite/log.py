"""The write-ahead log beside an SQLite file: when it is synced, and when it is taken up.

Rule 1: SQLite hands a commit to the system without syncing (synchronous=NORMAL); `sync` returns
        when everything that was written before it was called is on the disk. The two together are
        what synchronous=FULL does in one, but the next group can be written during the sync.
Rule 2: taking up the log (a checkpoint) moves most of it while commits go on, and the rest, which
        is little, while the store waits. So the log does not grow, and only its end is waited for.
        `sqlite_log_size` says when.
Rule 3: a sync and a checkpoint never wait for each other: each has its own thread.
Rule 4: one sync is under way at a time, and all who ask during it share the next: after a slow one
        nobody waits for more than one other.
Rule 5: the system may forget what it could not sync and call the next sync a success, with a hole
        in the log before what that one wrote. So behind a failed sync everything is moved out of
        the log first, into the synced file, and nothing is acknowledged before.
Rule 6: a checkpoint never begins on a log that is moved already: SQLite before 3.51.3 may damage
        the file if another process begins the log anew at that moment. So one process moves it at
        a time (a lock on the log's file), and each writes a page to it first.
Rule 7: when nobody has written for some seconds, the log is moved and its file cut to nothing.
Rule 8: nothing is moved into a file that is not the one that was opened, or that was cut.
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
from service.stores.sqlite.log_size import FRAME_HEAD_BYTES, LogSize
from service.work_thread import WorkThread

log = structlog.get_logger()

# A long log of the same few sessions is cheap to move, for each of their pages is written once; for
# strangers the pages are bounded as well, because commits wait for the disk that these go to.
_CHECKPOINT_PAGES = 512

# To finish a checkpoint takes that nobody reads the log. Somebody may do so for long, as a backup
# does, and commits wait meanwhile: so it is left to a later one.
_PATIENCE_S = 0.1

# Probes of readiness write a frame each: that is still quiet. A short file is left as it is, since
# to make it longer again costs more than to write into it.
_QUIET_AFTER_S = 5.0
_QUIET_FRAMES = 32
_SHORT_BYTES = 2**20

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
    """Owned by the store, which opens it behind its first transaction and closes it first."""

    def __init__(self, path: Path, identity: FileIdentity) -> None:
        self._path = path
        self._identity = identity
        self._pages: set[int] = set()
        self._sync_thread = WorkThread("sqlite-sync", self._on_synced)
        self._checkpoint_thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-checkpoint")
        self._under_way: asyncio.Future[None] | None = None
        self._is_finish_wanted = self._is_finishing = False
        self._quiet_timer: asyncio.TimerHandle | None = None
        self._frames_at_last_look = -1
        self._is_closing = False
        self._is_syncing = False
        self._asked: list[asyncio.Future[None]] = []
        self._may_have_a_hole = False
        self._file: int
        self._db: apsw.Connection
        self._application_id: int
        self._size: LogSize

    def open(self, *writers: SqliteFile) -> None:
        """`writers`: the connections by which the store commits."""
        self._file = os.open(f"{self._path}-wal", os.O_RDWR)
        self._db = connected(self._path)
        wait_at_most(self._db, _PATIENCE_S)
        self._db.execute("PRAGMA wal_autocheckpoint = 0")
        self._db.execute("PRAGMA synchronous = NORMAL")
        [(self._application_id,)] = rows_of(self._db, "PRAGMA application_id")
        [(page_bytes,)] = rows_of(self._db, "PRAGMA page_size")
        frame_bytes = FRAME_HEAD_BYTES + page_bytes
        try:
            self._identity.open(self._file, frame_bytes, num_log_frames_of(self._db))
        except BaseException:
            close(self._db, may_move=False)
            os.close(self._file)
            raise
        # What a process that was killed has left.
        if os.fstat(self._file).st_size > sqlite_log_size.CHECKPOINT_BYTES:
            self._move("TRUNCATE")
        self._size = LogSize(frame_bytes, num_log_frames_of(self._db))
        for writer in writers:
            writer.call_on_commit(self._on_commit)

    async def sync(self) -> None:
        """Return when all that was written before is on the disk."""
        asked = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        if not self._is_syncing:
            self._begin_sync()
        await asked

    async def make_room(self) -> None:
        """To be awaited before a commit: wait for a checkpoint, where one must be waited for."""
        if self._under_way is not None and self._size.is_full:
            await asyncio.wait({self._under_way})
        if self._is_finish_wanted:
            await self._finish_checkpoint()

    def wrote(self, records: Sequence[Record] = ()) -> None:
        """To be called behind whatever was written; begins a checkpoint when the log is long."""
        for record in records:
            # Neighbours share a page.
            self._pages.add(record.place * len(record.data) // PAGE_BYTES)
        is_due = self._size.is_due or len(self._pages) >= _CHECKPOINT_PAGES
        if is_due and not (self._under_way or self._is_finish_wanted or self._is_finishing):
            self._pages.clear()
            self._under_way = self._checkpoint()
            self._under_way.add_done_callback(self._on_most_moved)
        if self._quiet_timer is None:
            self._wait_for_quiet()

    def save(self) -> None:
        """Move all into the file, now that the log's path leads to it no longer."""
        if self._under_way is None:
            self._under_way = self._checkpoint("RESTART")
            self._under_way.add_done_callback(self._on_ended)

    async def close(self) -> None:
        self._is_closing = True
        if self._quiet_timer is not None:
            self._quiet_timer.cancel()
        while self._is_syncing:
            with suppress(Exception):  # those who asked are told; here only its end matters
                await self.sync()
        if self._under_way is not None:
            await self._under_way
        self._sync_thread.close()
        self._checkpoint_thread.shutdown()
        close(self._db, may_move=self._identity.may_be_moved_into)
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

    def suspect(self) -> None:
        """SQLite has failed: the end of the log may be gone."""
        self._identity.log_grew(self._size.num_frames, self._size.num_frames + 1)

    def _on_commit(self, _: apsw.Connection, __: str, num_frames: int) -> int:
        """On the thread that committed."""
        self._identity.log_grew(self._size.num_frames, num_frames)
        self._size.grew_to(num_frames)
        return apsw.SQLITE_OK

    def _on_most_moved(self, _: "asyncio.Future[None]") -> None:
        self._under_way = None
        self._is_finish_wanted = True

    def _on_ended(self, _: "asyncio.Future[None]") -> None:
        self._under_way = None

    async def _finish_checkpoint(self) -> None:
        """Move what was written during the checkpoint; the next commit begins the log anew."""
        self._is_finish_wanted, self._is_finishing = False, True
        num_frames = self._size.num_frames
        try:
            await self._checkpoint("RESTART")
        finally:
            self._is_finishing = False
            self._size.was_tried(num_frames)

    def _wait_for_quiet(self) -> None:
        loop = asyncio.get_running_loop()
        self._quiet_timer = loop.call_later(_QUIET_AFTER_S, self._look_for_quiet)

    def _look_for_quiet(self) -> None:
        if self._under_way is not None or self._is_finishing:
            self._wait_for_quiet()
            return
        loop = asyncio.get_running_loop()
        looking = loop.run_in_executor(self._checkpoint_thread, self._cut_if_quiet)
        self._under_way = looking
        looking.add_done_callback(self._on_looked)

    def _on_looked(self, _: "asyncio.Future[None]") -> None:
        self._under_way = self._quiet_timer = None
        if not self._is_closing and os.fstat(self._file).st_size > _SHORT_BYTES:
            self._wait_for_quiet()

    def _cut_if_quiet(self) -> None:
        """Of all processes on the file: the first that finds it quiet cuts it."""
        if os.fstat(self._file).st_size <= _SHORT_BYTES:
            return
        with suppress(apsw.Error):
            before, self._frames_at_last_look = (
                self._frames_at_last_look,
                num_log_frames_of(self._db),
            )
            if 0 <= before <= self._frames_at_last_look < before + _QUIET_FRAMES:
                self._move("TRUNCATE")

    def _move(self, how: str) -> None:
        try:
            self._run_checkpoint(how)
        except (apsw.Error, OSError) as error:  # commits go on without; it is tried again with more
            log.warning("checkpoint failed, will try again", reason=str(error))

    def _run_checkpoint(self, how: str) -> tuple[int, int, int]:
        """Whether it was kept from finishing, pages of the log, and those moved: see rule 6."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            if not self._identity.may_be_moved_into:
                raise OSError("the files of the session store are not as they were opened")
            self._db.execute(f"PRAGMA application_id = {self._application_id}")
            [told] = rows_of(self._db, f"PRAGMA wal_checkpoint({how})")
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        result: tuple[int, int, int] = told
        return result
