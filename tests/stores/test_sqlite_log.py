"""Checkpoints during commits: the log stays small, and commits do not wait long."""

import asyncio
import fcntl
import threading

import apsw
import pytest

from service.stores.sqlite import log as sqlite_log
from service.stores.sqlite import log_size as sqlite_log_size
from service.stores.sqlite.store import SqliteStore
from tests.stores.support import after, commit, opened, statements_of

AT_MOST_S = 5.0
CHECKPOINT_BYTES = 1_000_000
ROWS = 20


@pytest.fixture(autouse=True)
def _checkpoint_often(monkeypatch):
    monkeypatch.setattr(sqlite_log_size, "CHECKPOINT_BYTES", CHECKPOINT_BYTES)


class Log:
    """The log file, its greatest size, and its greatest growth during one checkpoint.

    The disk may stall under a checkpoint, and commits that wait for no disk go on meanwhile.
    """

    def __init__(self, folder):
        self._path = folder / "s.db-wal"
        self.peak_bytes = self.stall_bytes = 0

    def look(self):
        self.peak_bytes = max(self._size(), self.peak_bytes)

    def watch_checkpoints(self, monkeypatch):
        move = sqlite_log.WriteAheadLog._try_checkpoint

        def watched(log, how):
            before = self._size()
            move(log, how)
            self.stall_bytes = max(self._size() - before, self.stall_bytes)

        monkeypatch.setattr(sqlite_log.WriteAheadLog, "_try_checkpoint", watched)

    def _size(self):
        return self._path.stat().st_size


async def write(store, log, prefix, num_bytes, num_rows=ROWS, state_bytes=10_000):
    """Commit steps of a few sessions, group after group."""
    bases = await opened(store, *(f"{prefix}-{index}" for index in range(num_rows)))
    for count in range(num_bytes // (num_rows * state_bytes)):
        # SQLite does not write unchanged pages of a long record.
        steps = [after(base, state=bytes([count % 251]) * state_bytes) for base in bases]
        bases = await store.commit(
            [(step.header, step.data, base) for step, base in zip(steps, bases, strict=True)]
        )
        assert None not in bases
        log.look()
        await asyncio.sleep(0)  # the group commit collects more


@pytest.mark.parametrize(
    ("durability", "num_writers"), [("process", 1), ("power", 3)], ids=["process", "power"]
)
async def test_the_log_stays_small_under_endless_commits(
    tmp_path, monkeypatch, durability, num_writers
):
    """With as many groups in flight as the group commit allows."""
    store, log = SqliteStore.open(tmp_path / "s.db", durability), Log(tmp_path)
    log.watch_checkpoints(monkeypatch)
    writers = [write(store, log, index, 100_000_000 // num_writers) for index in range(num_writers)]
    await asyncio.gather(*writers)
    assert log.peak_bytes - log.stall_bytes < 30 * CHECKPOINT_BYTES
    await store.close()


@pytest.mark.timeout(580)
@pytest.mark.parametrize("durability", ["process", "power"])
async def test_the_log_stays_small_while_two_stores_write(tmp_path, monkeypatch, durability):
    """Two processes for SQLite: neither waits for the checkpoint of the other."""
    stores = [SqliteStore.open(tmp_path / "s.db", durability) for _ in range(2)]
    log = Log(tmp_path)
    log.watch_checkpoints(monkeypatch)
    await asyncio.gather(
        *(
            write(store, log, index, 40_000_000, num_rows=5, state_bytes=4000)
            for index, store in enumerate(stores)
        )
    )
    assert log.peak_bytes - log.stall_bytes < 30 * CHECKPOINT_BYTES
    for store in stores:
        await store.close()


class Moves:
    """Replaces the checkpoint: counts calls, can block and can fail."""

    def __init__(self, monkeypatch):
        self.num_started = 0
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.error = None
        self._try_checkpoint = sqlite_log.WriteAheadLog._try_checkpoint
        monkeypatch.setattr(sqlite_log.WriteAheadLog, "_try_checkpoint", self._hold_and_move())

    def _hold_and_move(self):
        def move(log, *how):
            self.num_started += 1
            self.begun.set()
            assert self.go_on.wait(AT_MOST_S)
            if self.error:
                log._db.close()
            return self._try_checkpoint(log, *how)

        return move

    async def is_under_way(self):
        assert await asyncio.to_thread(self.begun.wait, AT_MOST_S)


@pytest.fixture
def moves(monkeypatch):
    return Moves(monkeypatch)


async def test_commits_go_on_while_most_of_the_log_is_moved(tmp_path, moves):
    store, log = SqliteStore.open(tmp_path / "s.db", "power"), Log(tmp_path)
    moves.go_on.clear()
    await write(store, log, "a", CHECKPOINT_BYTES)
    await moves.is_under_way()
    await write(store, log, "b", 3 * CHECKPOINT_BYTES)  # without waiting
    moves.go_on.set()
    await store.close()
    assert moves.num_started == 1  # one at a time


async def test_many_sessions_are_moved_sooner_than_as_many_bytes_of_a_few(
    tmp_path, moves, monkeypatch
):
    """The cost of a checkpoint is the pages that it writes, so each page counts once."""
    monkeypatch.setattr(sqlite_log_size, "CHECKPOINT_BYTES", 20 * CHECKPOINT_BYTES)
    monkeypatch.setattr(sqlite_log, "_CHECKPOINT_PAGES", 100)
    store, log = SqliteStore.open(tmp_path / "s.db", "power"), Log(tmp_path)
    await write(store, log, "a", 5 * CHECKPOINT_BYTES)
    assert moves.num_started == 0
    await write(store, log, "b", CHECKPOINT_BYTES, num_rows=100)
    await moves.is_under_way()
    await store.close()


async def test_frames_written_meanwhile_are_moved_before_the_next_commit(tmp_path, moves):
    store, log = SqliteStore.open(tmp_path / "s.db", "power"), Log(tmp_path)
    moves.go_on.clear()
    await write(store, log, "a", CHECKPOINT_BYTES)
    await moves.is_under_way()
    most_moved = store._log._running
    moves.go_on.set()
    await most_moved
    assert moves.num_started == 1
    [base] = await opened(store, "b")
    assert moves.num_started == 2
    await commit(store, after(base), base)
    assert moves.num_started == 2
    await store.close()


async def test_a_failed_checkpoint_does_not_fail_commits_and_is_retried(tmp_path, moves):
    store, log = SqliteStore.open(tmp_path / "s.db", "power"), Log(tmp_path)
    moves.error = apsw.IOError("disk I/O error")
    await write(store, log, "a", 5 * CHECKPOINT_BYTES)
    assert moves.num_started >= 2
    [base] = await opened(store, "b")
    assert await commit(store, after(base), base) == await store.load(base.key)
    await store.close()


@pytest.mark.parametrize("durability", ["process", "power"])
async def test_a_close_during_a_checkpoint_waits_for_it_and_loses_nothing(
    tmp_path, moves, durability
):
    store, log = SqliteStore.open(tmp_path / "s.db", durability), Log(tmp_path)
    moves.go_on.clear()
    await write(store, log, "a", CHECKPOINT_BYTES)
    [base] = await opened(store, "b")
    await moves.is_under_way()
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    assert not closing.done()
    moves.go_on.set()
    await closing
    again = SqliteStore.open(tmp_path / "s.db", durability)
    assert await again.load(base.key) == base
    assert len(await again.list_live("t", None, "", 1000)) == ROWS + 1
    await again.close()


async def test_a_close_right_after_a_checkpoint_ended_waits_for_its_callback(tmp_path):
    store = SqliteStore.open(tmp_path / "s.db", "power")
    store._log._running = asyncio.get_running_loop().create_future()
    store._log._running.add_done_callback(store._log._on_done)
    store._log._running.set_result(None)
    await store.close()
    assert store._log._running is None


async def test_a_closed_store_is_one_file(tmp_path):
    """The last connection moves the log into the file, so that one file is to be copied."""
    store, log = SqliteStore.open(tmp_path / "s.db", "power"), Log(tmp_path)
    await write(store, log, "a", CHECKPOINT_BYTES // 2)
    await store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["s.db"]


async def test_a_checkpoint_waits_for_that_of_another_process_and_never_begins_on_a_moved_log(
    tmp_path,
):
    stores = [SqliteStore.open(tmp_path / "s.db", "process") for _ in range(2)]
    [mine, others] = [store._log for store in stores]
    await write(stores[0], Log(tmp_path), "a", 100_000)
    told = statements_of(mine._db)
    fcntl.flock(others._file, fcntl.LOCK_EX)
    moving = mine._checkpoint()
    assert await asyncio.wait({moving}, timeout=0.2) == (set(), {moving})
    assert told == []
    fcntl.flock(others._file, fcntl.LOCK_UN)
    await moving
    await mine._checkpoint("RESTART")  # without a write since
    written, moved = "PRAGMA application_id = ", "PRAGMA wal_checkpoint("
    assert [each.startswith(written) for each in told] == [True, False, True, False]
    assert [each.startswith(moved) for each in told] == [False, True, False, True]
    for store in stores:
        await store.close()
