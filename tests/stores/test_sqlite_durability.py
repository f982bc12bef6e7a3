"""When the SQLite store syncs its log, and what it does while the file is locked."""

import asyncio
import threading

import apsw
import pytest

from service.errors import StoreUnavailableError
from service.stores.record.record import Key
from service.stores.sqlite import log as sqlite_log
from service.stores.sqlite import store as sqlite
from service.stores.sqlite.store import SqliteStore
from tests.stores.support import after, commit, opened, record_named

AT_MOST_S = 5.0


class Disk:
    """Replaces the sync: counts calls, can block and can fail."""

    def __init__(self, monkeypatch):
        self.num_started = self.num_done = 0
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.error = None
        self._sync = sqlite_log._sync
        monkeypatch.setattr(sqlite_log, "_sync", self.sync)

    def hold(self):
        self.begun.clear()
        self.go_on.clear()

    def sync(self, file):
        self.num_started += 1
        self.begun.set()
        assert self.go_on.wait(AT_MOST_S)
        if self.error:
            raise self.error
        self._sync(file)
        self.num_done += 1


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


@pytest.fixture
async def store(tmp_path):
    store = SqliteStore.open(tmp_path / "s.db", "power")
    yield store
    await store.close()


@pytest.fixture
def rival(tmp_path, store):
    """For SQLite a connection of another process; it never waits for a lock."""
    rival = apsw.Connection(str(tmp_path / "s.db"))
    yield rival
    rival.close()


def step_seen_by(rival, record):
    query = "SELECT revision FROM states WHERE id = ?"
    return rival.execute(query, (record.rowid,)).fetchone()[0]


async def begun(disk):
    assert await asyncio.to_thread(disk.begun.wait, AT_MOST_S)


async def test_with_power_each_commit_is_synced_before_it_is_answered(store, rival, disk):
    [record] = await opened(store, "a")
    for num_synced in range(1, 4):
        assert disk.num_done == num_synced
        disk.hold()
        step = after(record)
        committing = asyncio.create_task(commit(store, step, record))
        await begun(disk)
        # The operating system has the frames during the sync.
        assert step_seen_by(rival, record) == step.revision
        assert not committing.done()
        disk.go_on.set()
        record = await committing


async def test_with_power_a_commit_from_the_thread_is_synced_too(store, disk):
    store._commit_inline = lambda writes: None
    await opened(store, "a")
    assert disk.num_done == 1


async def test_with_power_what_was_loaded_is_synced_before_it_is_answered(
    tmp_path, store, disk, monkeypatch
):
    """Another process may have written it without a sync yet."""
    other = SqliteStore.open(tmp_path / "s.db", "process")
    [record] = await opened(other, "a")
    assert disk.num_started == 0
    syncs_before, load = [], store._thread_file.load

    def load_there(key):
        syncs_before.append(disk.num_started)
        return load(key)

    monkeypatch.setattr(store._thread_file, "load", load_there)
    disk.hold()
    loading = asyncio.create_task(store.load(record.key))
    await begun(disk)
    assert not loading.done()
    disk.go_on.set()
    assert await loading == record
    assert (syncs_before, disk.num_done) == ([0], 1)  # first the read, then the sync
    await other.close()


async def test_with_process_nothing_waits_for_the_disk(tmp_path, disk):
    store = SqliteStore.open(tmp_path / "s.db", "process")
    disk.error = OSError("nobody may ask")
    [record] = await opened(store, "a")
    await commit(store, after(record), record)
    await store.load(record.key)
    assert disk.num_started == 0
    await store.close()


async def test_while_one_commit_is_synced_the_next_is_written(store, rival, disk, monkeypatch):
    monkeypatch.setattr(sqlite, "_INLINE_S", 60.0)  # written on the loop, however slow it is
    one, two = await opened(store, "a", "b")
    disk.hold()
    steps = [after(one), after(two)]
    committing = [
        asyncio.create_task(commit(store, step, base))
        for step, base in zip(steps, (one, two), strict=True)
    ]
    await begun(disk)
    assert [step_seen_by(rival, base) for base in (one, two)] == [s.revision for s in steps]
    assert not any(task.done() for task in committing)
    disk.go_on.set()
    assert all(await asyncio.gather(*committing))


async def test_all_who_ask_during_a_sync_share_the_next_and_may_leave(store, disk, monkeypatch):
    monkeypatch.setattr(sqlite, "_INLINE_S", 60.0)  # written on the loop, however slow it is
    bases = await opened(store, *"abcdef")
    before = disk.num_started
    disk.hold()
    committing = [asyncio.create_task(commit(store, after(base), base)) for base in bases]
    await begun(disk)
    committing[0].cancel()  # its sync is running
    committing[1].cancel()  # it waits for the next sync, like the others
    await asyncio.sleep(0)
    disk.go_on.set()
    kept = await asyncio.gather(*committing[2:])
    assert all(kept)
    assert disk.num_started == before + 2


async def test_a_failed_sync_fails_commit_and_load(store, disk):
    [record] = await opened(store, "a")
    disk.error = OSError(5, "Input/output error")
    with pytest.raises(StoreUnavailableError, match="Input/output error"):
        await commit(store, after(record), record)
    with pytest.raises(StoreUnavailableError, match="Input/output error"):
        await store.load(record.key)


async def test_a_failed_sync_does_not_claim_that_nothing_was_stored(store, rival, disk):
    """The step is written: other connections read it, and it may survive."""
    [record] = await opened(store, "a")
    disk.error = OSError(5, "Input/output error")
    step = after(record)
    with pytest.raises(StoreUnavailableError) as caught:
        await commit(store, step, record)
    assert step_seen_by(rival, record) == step.revision
    assert "nothing of this request was stored" not in caught.value.detail


async def test_a_commit_that_finds_the_file_locked_waits_in_the_thread(store, rival, monkeypatch):
    [record] = await opened(store, "a")
    in_thread, work = threading.Event(), store._thread_file.commit

    def commit_there(writes):
        assert threading.current_thread() is not threading.main_thread()
        in_thread.set()
        return work(writes)

    monkeypatch.setattr(store._thread_file, "commit", commit_there)
    assert list(store._inline_file._db.execute("PRAGMA busy_timeout")) == [(0,)]  # it never waits
    rival.execute("BEGIN IMMEDIATE")
    committing = asyncio.create_task(commit(store, after(record), record))
    assert await asyncio.to_thread(in_thread.wait, AT_MOST_S)  # the loop is free meanwhile
    assert not committing.done()
    rival.execute("COMMIT")
    kept = await committing
    assert await store.load(record.key) == kept


async def test_a_file_that_stays_locked_is_an_error_and_nothing_is_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "_BUSY_TIMEOUT_S", 0.01)
    store = SqliteStore.open(tmp_path / "s.db", "power")
    [record] = await opened(store, "a")
    rival = apsw.Connection(str(tmp_path / "s.db"))
    rival.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match=r"locked.*nothing of this request was stored"):
        await commit(store, after(record), record)
    with pytest.raises(StoreUnavailableError, match="locked"):
        await store.check()
    rival.execute("COMMIT")
    rival.close()
    await store.check()
    assert await store.load(record.key) == record
    assert await commit(store, after(record), record)
    await store.close()


async def test_a_store_that_cannot_be_written_does_not_check_out(store):
    store._thread_file._db.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreUnavailableError, match="readonly"):
        await store.check()


async def test_a_transaction_holds_the_write_lock_from_its_start(tmp_path):
    """The clock is read inside the transaction, so that no other writer comes in between."""
    rival, refused = None, []

    def clock():
        if rival:
            with pytest.raises(apsw.BusyError, match="locked"):
                rival.execute("BEGIN IMMEDIATE")
            refused.append(True)
        return 1000.0

    store = SqliteStore.open(tmp_path / "s.db", "power", clock)
    rival = apsw.Connection(str(tmp_path / "s.db"))
    for is_here in (True, False):
        if not is_here:
            store._commit_inline = lambda writes: None
        assert await commit(store, record_named(str(is_here)))
    assert refused == [True, True]
    rival.close()
    await store.close()


async def test_a_sweep_holds_the_write_lock_from_its_start(store, rival):
    """No other writer comes between what it reads and what it removes."""
    await opened(store, "a")
    tried = []

    def try_to_write(_, statement, values):
        if statement.lstrip().startswith("SELECT id"):
            try:
                rival.execute("BEGIN IMMEDIATE")
            except apsw.BusyError as error:
                tried.append(str(error))
        return True

    store._thread_file._db.exec_trace = try_to_write
    await store.sweep(10)
    assert tried == ["database is locked"]


async def test_readers_and_a_writer_do_not_wait_for_each_other(store, rival):
    [record] = await opened(store, "a")
    assert list(rival.execute("PRAGMA journal_mode")) == [("wal",)]
    rival.execute("BEGIN IMMEDIATE")
    assert await store.load(record.key) == record
    assert await store.load(Key("t", "nobody")) is None
    rival.execute("COMMIT")
    rival.execute("BEGIN")
    rival.execute("SELECT count(*) FROM states").fetchone()
    assert await commit(store, after(record), record)
    rival.execute("COMMIT")
