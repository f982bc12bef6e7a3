"""What only the SQLite store promises: a file that outlives the process."""

import asyncio
import sqlite3
import subprocess
import sys

import pytest

from service.errors import RecordUnreadableError, StartUpError, StoreUnavailableError
from service.stores import sqlite
from service.stores.base import Write, open_store
from service.stores.record import Key, new_revision
from service.stores.sqlite import SqliteStore
from tests.stores.test_stores import after, record_named


async def test_sessions_outlive_the_store_object(tmp_path):
    path = tmp_path / "deep" / "s.db"
    first = SqliteStore.open(path, "power")
    record = record_named()
    await first.commit([Write(record, None)])
    await first.close()
    second = SqliteStore.open(path, "power")
    assert (await second.load(record.key)).revision == record.revision
    await second.close()


async def test_two_processes_worth_of_connections_share_one_file(tmp_path):
    one = SqliteStore.open(tmp_path / "s.db", "power")
    two = SqliteStore.open(tmp_path / "s.db", "power")
    record = record_named()
    await one.commit([Write(record, None)])
    stepped = after(record)
    [outcome] = await two.commit([Write(stepped, record.revision)])
    [late] = await one.commit([Write(after(record), record.revision)])
    assert (outcome.committed, late.committed) == (True, False)
    await one.close()
    await two.close()


async def test_durability_power_syncs_every_commit(tmp_path):
    for durability, synchronous in (("power", 2), ("process", 1)):
        store = SqliteStore.open(tmp_path / f"{durability}.db", durability)
        [(found,)] = await store._call(lambda s=store: list(s._db.execute("PRAGMA synchronous")))
        assert found == synchronous
        await store.close()


async def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StartUpError, match="another program"):
        SqliteStore.open(path, "power")
    assert path.read_bytes() == before


async def test_a_file_of_a_later_service_is_refused(tmp_path):
    path = tmp_path / "s.db"
    await SqliteStore.open(path, "power").close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StartUpError, match="later service"):
        SqliteStore.open(path, "power")


def test_processes_that_make_the_file_together_all_get_it(tmp_path):
    code = (
        "import asyncio, sys; from service.stores.sqlite import SqliteStore;"
        "asyncio.run(SqliteStore.open(sys.argv[1], 'power').close())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s.db")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    for process in processes:
        _, problem = process.communicate(timeout=60)
        assert process.returncode == 0, problem


async def test_a_crash_while_the_file_is_made_leaves_nothing_in_the_way(tmp_path, monkeypatch):
    path = tmp_path / "s.db"
    monkeypatch.setattr(sqlite, "_SCHEMA", (*sqlite._SCHEMA, "SELECT crash"))
    with pytest.raises(StartUpError):
        SqliteStore.open(path, "power")
    monkeypatch.undo()
    await SqliteStore.open(path, "power").close()


async def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "s.db"
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(StartUpError, match="cannot use"):
        SqliteStore.open(path, "power")


async def test_a_damaged_record_is_an_error_not_a_wrong_state_and_hides_no_other(tmp_path):
    path = tmp_path / "s.db"
    store = SqliteStore.open(path, "power")
    await store.commit([Write(record_named("a"), None), Write(record_named("b"), None)])
    with sqlite3.connect(path) as db:
        [(data,)] = db.execute("SELECT data FROM sessions WHERE name = 'a'")
        flipped = data[:-1] + bytes([data[-1] ^ 1])
        db.execute("UPDATE sessions SET data = ? WHERE name = 'a'", (flipped,))
    db.close()
    with pytest.raises(RecordUnreadableError, match="damaged"):
        await store.load(Key("t", "a"))
    assert [r.opening.name for r in await store.list_live("t", None, "", 9)] == ["b"]
    await store.close()


async def test_a_failed_write_keeps_nothing_and_the_store_recovers(tmp_path):
    store = SqliteStore.open(tmp_path / "s.db", "power")
    record = record_named()
    await store.commit([Write(record, None)])
    await store._call(lambda: store._db.execute("PRAGMA query_only = ON"))
    with pytest.raises(StoreUnavailableError, match="nothing of this request was kept"):
        await store.commit([Write(after(record), record.revision)])
    await store._call(lambda: store._db.execute("PRAGMA query_only = OFF"))
    [outcome] = await store.commit([Write(after(record), record.revision)])
    assert outcome.committed
    await store.close()


def rival_of(path):
    """Another process's connection, as far as SQLite can tell; it never waits."""
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)


async def test_a_commit_waits_for_another_process_to_finish(tmp_path):
    store = SqliteStore.open(tmp_path / "s.db", "power")
    rival = rival_of(tmp_path / "s.db")
    rival.execute("BEGIN IMMEDIATE")
    committing = asyncio.create_task(store.commit([Write(record_named(), None)]))
    asyncio.get_running_loop().call_later(0.3, rival.execute, "COMMIT")
    [outcome] = await committing
    assert outcome.committed
    rival.close()
    await store.close()


async def test_a_transaction_holds_the_write_lock_from_its_start(tmp_path):
    """The clock is read inside: no rival may write between what is read there and what follows."""
    rival, refused = None, []

    def clock():
        if rival:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                rival.execute("BEGIN IMMEDIATE")
            refused.append(True)
        return 1000.0

    store = SqliteStore.open(tmp_path / "s.db", "power", clock)
    rival = rival_of(tmp_path / "s.db")
    await store.commit([Write(record_named(), None)])
    await store.sweep(10)
    assert refused == [True, True]
    rival.close()
    await store.close()


async def test_an_error_in_the_middle_of_a_group_keeps_nothing_of_it(tmp_path):
    store = SqliteStore.open(tmp_path / "s.db", "power")
    good, bad = record_named("a"), record_named("b", ttl_s=float("nan"))  # no time that fits
    with pytest.raises(StoreUnavailableError):
        await store.commit([Write(good, None), Write(bad, None)])
    assert await store.load(good.key) is None
    [outcome] = await store.commit([Write(good, None)])
    assert outcome.committed
    await store.close()


async def test_readers_and_a_writer_do_not_wait_for_each_other(tmp_path):
    store = SqliteStore.open(tmp_path / "s.db", "power")
    record = record_named()
    await store.commit([Write(record, None)])
    with rival_of(tmp_path / "s.db") as rival:
        assert list(rival.execute("PRAGMA journal_mode")) == [("wal",)]
        rival.execute("BEGIN IMMEDIATE")
        assert (await store.load(record.key)).revision == record.revision
    rival.close()
    await store.close()


async def test_a_store_that_cannot_be_written_does_not_check_out(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "_BUSY_TIMEOUT_S", 0.01)
    store = SqliteStore.open(tmp_path / "s.db", "power")
    rival = rival_of(tmp_path / "s.db")
    rival.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match="locked"):
        await store.check()
    rival.execute("COMMIT")
    rival.close()
    await store.check()
    await store._call(lambda: store._db.execute("PRAGMA query_only = ON"))
    with pytest.raises(StoreUnavailableError, match="readonly"):
        await store.check()
    await store.close()


@pytest.mark.parametrize(
    "url", ["redis:/x", "sqlite://", "sqlite:///", "sqlite://host/x.db", "s.db", ""]
)
async def test_an_unknown_store_url_names_the_setting(url):
    with pytest.raises(StartUpError, match="CARRY_STORE"):
        open_store(url, "power")


async def test_relative_and_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    await open_store("sqlite:///var/one.db", "power").close()
    await open_store(f"sqlite:///{tmp_path}/two.db", "power").close()
    assert (tmp_path / "var" / "one.db").exists()
    assert (tmp_path / "two.db").exists()
    assert new_revision() != new_revision()
