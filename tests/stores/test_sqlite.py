"""The SQLite store: a file that outlives the process and belongs to this service."""

import asyncio
import os
import subprocess
import sys
from contextlib import ExitStack

import apsw
import pytest

from service.errors import RecordUnreadableError, StartUpError, StoreUnavailableError
from service.stores.factory import open_store
from service.stores.record.record import Key
from service.stores.record.revision import new_revision
from service.stores.sqlite import connection as sqlite_connection
from service.stores.sqlite import file as sqlite_file
from service.stores.sqlite.store import SqliteStore
from tests.stores.support import after, commit, opened, record_named
from tests.system import running_process


async def test_sessions_outlive_the_store_object(tmp_path):
    path = tmp_path / "deep" / "s.db"
    first = SqliteStore.open(path, "power")
    [record] = await opened(first, "a")
    await first.close()
    second = SqliteStore.open(path, "power")
    assert await second.load(record.key) == record
    assert await commit(second, after(record), record)
    await second.close()


async def test_two_processes_worth_of_connections_share_one_file(tmp_path):
    one = SqliteStore.open(tmp_path / "s.db", "power")
    two = SqliteStore.open(tmp_path / "s.db", "power")
    [record] = await opened(one, "a")
    assert await commit(two, after(record), record)
    assert await commit(one, after(record), record) is None
    await one.close()
    await two.close()


@pytest.mark.parametrize("durability", ["power", "process"])
async def test_stores_that_race_on_one_file_win_once_each_round(tmp_path, durability):
    stores = [SqliteStore.open(tmp_path / "s.db", durability) for _ in range(3)]
    [record] = await opened(stores[0], "a")
    for _ in range(20):
        rivals = [commit(store, after(record), record) for store in stores]
        [record] = [kept for kept in await asyncio.gather(*rivals) if kept]
        for store in stores:
            assert await store.load(record.key) == record
    for store in stores:
        await store.close()


RACER = """
import asyncio, sys
from service.stores.record.record import Key
from service.stores.sqlite.store import SqliteStore
from tests.stores.support import after, commit

async def race():
    store = SqliteStore.open(sys.argv[1], "process")
    num_won = 0
    while (found := await store.load(Key("t", "a"))).step < 300:
        num_won += await commit(store, after(found), found) is not None
    await store.close()
    print(num_won)

asyncio.run(race())
"""


async def test_processes_that_race_on_one_session_apply_each_step_once(tmp_path):
    store = SqliteStore.open(tmp_path / "s.db", "process")
    await opened(store, "a")
    command = [sys.executable, "-c", RACER, str(tmp_path / "s.db")]

    async def race():
        racer = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        return int((await racer.communicate())[0])

    wins = await asyncio.gather(race(), race())
    assert (await store.load(Key("t", "a"))).step == sum(wins) == 300
    await store.close()


async def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "other.db"
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StartUpError, match="another program"):
        SqliteStore.open(path, "power")
    assert path.read_bytes() == before


async def test_a_file_of_a_later_service_is_refused(tmp_path):
    path = tmp_path / "s.db"
    await SqliteStore.open(path, "power").close()
    db = apsw.Connection(str(path))
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StartUpError, match="later service"):
        SqliteStore.open(path, "power")


def test_processes_that_make_the_file_together_all_get_it(tmp_path):
    code = (
        "import asyncio, sys; from service.stores.sqlite.store import SqliteStore;"
        "asyncio.run(SqliteStore.open(sys.argv[1], 'power').close())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s.db")]
    with ExitStack() as stack:
        options = {"stderr": subprocess.PIPE, "text": True}
        makers = [stack.enter_context(running_process(command, **options)) for _ in range(6)]
        for maker in makers:
            _, problem = maker.communicate(timeout=60)
            assert maker.returncode == 0, problem


async def test_a_file_that_another_process_is_making_is_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "s.db"
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE; CREATE TABLE sessions (id)")
    monkeypatch.setattr(sqlite_connection.time, "sleep", lambda _: other.execute("ROLLBACK"))
    store = SqliteStore.open(path, "power")
    assert await opened(store, "a")
    await store.close()
    other.close()


def test_a_file_that_stays_locked_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "s.db"
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE; CREATE TABLE sessions (id)")
    monkeypatch.setattr(sqlite_connection, "_OPEN_TIMEOUT_S", 0.05)
    with pytest.raises(StartUpError, match="locked"):
        SqliteStore.open(path, "power")
    other.close()


async def test_a_crash_while_the_file_is_made_leaves_nothing_in_the_way(tmp_path, monkeypatch):
    path = tmp_path / "s.db"
    monkeypatch.setattr(sqlite_file, "_SCHEMA", (*sqlite_file._SCHEMA, "SELECT crash"))
    with pytest.raises(StartUpError):
        SqliteStore.open(path, "power")
    monkeypatch.undo()
    await SqliteStore.open(path, "power").close()


async def test_a_file_that_is_not_a_database_is_refused(tmp_path):
    path = tmp_path / "s.db"
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(StartUpError, match="cannot use"):
        SqliteStore.open(path, "power")


def test_a_path_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.db")
    with pytest.raises(StartUpError, match="cannot use"):
        SqliteStore.open(path, "power")


async def test_an_unknown_durability_is_refused(tmp_path):
    with pytest.raises(StartUpError, match="CARRY_DURABILITY"):
        SqliteStore.open(tmp_path / "s.db", "hope")


@pytest.mark.parametrize(
    ("table", "column"), [("states", "data"), ("sessions", "opening")], ids=["state", "opening"]
)
async def test_a_damaged_record_is_an_error_and_does_not_hide_others(tmp_path, table, column):
    path = tmp_path / "s.db"
    store = SqliteStore.open(path, "power")
    damaged, _ = await opened(store, "a", "b")
    db = apsw.Connection(str(path))
    [(data,)] = db.execute(f"SELECT {column} FROM {table} WHERE id = ?", (damaged.rowid,))
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    db.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", (flipped, damaged.rowid))
    db.close()
    with pytest.raises(RecordUnreadableError, match="damaged"):
        await store.load(Key("t", "a"))
    assert [r.header.name for r in await store.list_live("t", None, "", 9)] == ["b"]
    await store.close()


def refuse_writes(store, refused):
    for file in (store._inline_file, store._thread_file):
        file._db.execute(f"PRAGMA query_only = {'ON' if refused else 'OFF'}")


async def test_a_failed_write_keeps_nothing_and_the_store_recovers(tmp_path):
    store = SqliteStore.open(tmp_path / "s.db", "power")
    [record] = await opened(store, "a")
    refuse_writes(store, True)
    with pytest.raises(StoreUnavailableError, match="nothing of this request was stored"):
        await commit(store, after(record), record)
    refuse_writes(store, False)
    assert await store.load(record.key) == record
    assert await commit(store, after(record), record)
    await store.close()


async def test_an_error_in_the_middle_of_a_group_keeps_nothing_of_it(tmp_path):
    store = SqliteStore.open(tmp_path / "s.db", "power")
    good, bad = record_named("a"), record_named("b", ttl_s=float("nan"))  # invalid as a time
    with pytest.raises(StoreUnavailableError):
        await store.commit([(each.header, each.data, None) for each in (good, bad)])
    assert await store.load(good.key) is None
    assert await commit(store, good)
    await store.close()


@pytest.mark.parametrize(
    "url", ["redis:/x", "sqlite://", "sqlite:///", "sqlite://host/x.db", "s.db", ""]
)
async def test_an_unknown_store_url_names_the_setting(url):
    with pytest.raises(StartUpError, match="CARRY_STORE"):
        open_store(url)


async def test_relative_and_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    await open_store("sqlite:///var/one.db").close()
    await open_store(f"sqlite:///{tmp_path}/two.db").close()
    assert (tmp_path / "var" / "one.db").exists()
    assert (tmp_path / "two.db").exists()
    assert new_revision() != new_revision()
