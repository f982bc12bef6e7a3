"""After a failed sync, nothing is acknowledged that a power cut could lose."""

import shutil
import threading

import apsw
import pytest

from service.errors import StoreUnavailableError
from service.stores.sqlite import log as sqlite_log
from service.stores.sqlite.connection import Transaction
from service.stores.sqlite.store import SqliteStore
from tests.stores.support import after, commit, opened, statements_of


class FailingDisk:
    """The next syncs of the log fail, and drop the pages, as Linux does."""

    def __init__(self, monkeypatch):
        self.num_failing = 0
        self._sync = sqlite_log._sync
        monkeypatch.setattr(sqlite_log, "_sync", self.sync)

    def sync(self, file):
        if self.num_failing:
            self.num_failing -= 1
            raise OSError(5, "Input/output error")
        self._sync(file)


@pytest.fixture
def disk(monkeypatch):
    return FailingDisk(monkeypatch)


@pytest.fixture
async def store(tmp_path):
    store = SqliteStore.open(tmp_path / "s.db", "power")
    yield store
    await store.close()


def revisions_without_the_log(path, copy):
    """The files after a power cut that loses the log."""
    shutil.copy(path, copy)
    db = apsw.Connection(str(copy))
    found = {row[0] for row in db.execute("SELECT revision FROM states")}
    db.close()
    return found


async def test_what_a_failed_sync_may_have_dropped_is_moved_before_the_next_answer(
    tmp_path, store, disk
):
    one, two = await opened(store, "a", "b")
    disk.num_failing = 1
    lost = after(one)
    with pytest.raises(StoreUnavailableError, match="not known"):
        await commit(store, lost, one)
    step = await commit(store, after(two), two)
    assert step is not None
    kept = revisions_without_the_log(tmp_path / "s.db", tmp_path / "copy.db")
    assert {lost.revision, step.revision} <= kept


async def test_while_the_log_cannot_be_moved_every_write_is_refused_and_later_all_is_well(
    tmp_path, store, disk
):
    [record] = await opened(store, "a")
    disk.num_failing = 1
    with pytest.raises(StoreUnavailableError):
        await store.load(record.key)
    reader = apsw.Connection(str(tmp_path / "s.db"))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM states").fetchone()
    store._log._db.execute("PRAGMA busy_timeout = 0")
    assert await store.now()
    with pytest.raises(StoreUnavailableError, match="an earlier sync failed"):
        await commit(store, after(record), record)
    with pytest.raises(StoreUnavailableError, match="an earlier sync failed"):
        await store.check()
    reader.execute("COMMIT")
    reader.close()
    await store.check()
    found = await store.load(record.key)
    assert await commit(store, after(found), found)


async def test_the_log_is_moved_once_and_then_only_synced(store, disk):
    [record] = await opened(store, "a")
    disk.num_failing = 1
    with pytest.raises(StoreUnavailableError):
        await store.load(record.key)
    statements = statements_of(store._log._db)
    for _ in range(3):
        await store.load(record.key)
    moves = [each for each in statements if "checkpoint" in each]
    assert moves == ["PRAGMA wal_checkpoint(RESTART)"]


async def test_a_checkpoint_that_fails_in_another_way_is_not_a_success(store, disk, monkeypatch):
    [record] = await opened(store, "a")
    disk.num_failing = 1
    with pytest.raises(StoreUnavailableError):
        await store.load(record.key)
    with monkeypatch.context() as short:
        short.setattr(store._log, "_checkpoint_locked", out_of_memory)
        for _ in range(2):
            with pytest.raises(MemoryError):
                await store.load(record.key)
    assert await store.load(record.key) == record


def out_of_memory(how):
    raise MemoryError


async def test_without_a_thread_for_it_the_log_is_synced_all_the_same(tmp_path, monkeypatch):
    store, started = SqliteStore.open(tmp_path / "s.db", "power"), threading.Thread.start
    synced = []
    monkeypatch.setattr(sqlite_log, "_sync", synced.append)

    def start(thread):
        if thread.name == "sqlite-sync":
            raise RuntimeError("can't start new thread")
        started(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert await opened(store, "a")
    assert synced
    await store.close()


def fail_after_a_roll_back(db):
    with Transaction(db):
        db.execute("ROLLBACK")  # as SQLite does when it cannot spill a page to a full disk
        db.execute("SELECT * FROM missing")


def test_an_error_after_which_sqlite_rolled_back_is_reported():
    db = apsw.Connection(":memory:")
    with pytest.raises(apsw.SQLError, match="no such table"):
        fail_after_a_roll_back(db)
    db.close()
