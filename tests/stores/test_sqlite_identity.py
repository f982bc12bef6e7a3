"""The next request detects files that were removed, replaced or truncated."""

import os
import shutil

import apsw
import pytest
from structlog.testing import capture_logs

from service.errors import StartUpError, StoreUnavailableError
from service.stores.record.record import Key
from service.stores.sqlite import store as sqlite
from service.stores.sqlite.store import SqliteStore
from tests.stores.file_changes import (
    remove,
    remove_folder,
    replace_by_a_copy,
    truncate,
    truncate_half,
)
from tests.stores.support import after, commit, opened

A = Key("t", "a")


def rename(path):
    path.rename(path.with_name(path.name + ".away"))


def copy_an_earlier_one_over_it(path):
    path.write_bytes(path.read_bytes()[:8192])


def rename_folder(path):
    path.parent.rename(path.parent.with_name("elsewhere"))


def replace_folder(path):
    shutil.copytree(path.parent, path.parent.with_name("copy"))
    rename_folder(path)
    path.parent.with_name("copy").rename(path.parent)


FILE, LOG, INDEX = "", "-wal", "-shm"
CHANGES = [
    (remove, FILE, "its database file was removed or renamed"),
    (rename, FILE, "its database file was removed or renamed"),
    (replace_by_a_copy, FILE, "its database file was replaced"),
    (truncate, FILE, "its database file was truncated"),
    (truncate_half, FILE, "its database file was truncated"),
    (copy_an_earlier_one_over_it, FILE, "its database file was truncated"),
    (remove, LOG, "its write-ahead log was removed or renamed"),
    (rename, LOG, "its write-ahead log was removed or renamed"),
    (replace_by_a_copy, LOG, "its write-ahead log was replaced"),
    (truncate, LOG, "its write-ahead log was truncated"),
    (truncate_half, LOG, "its write-ahead log was truncated"),
    (remove, INDEX, "its shared-memory file was removed or renamed"),
    (remove_folder, FILE, "its folder was removed or renamed"),
    (rename_folder, FILE, "its folder was removed or renamed"),
    (replace_folder, FILE, "its database file was replaced"),
]
EVERY_CHANGE = pytest.mark.parametrize(
    ("change", "which", "reason"), CHANGES, ids=[f"{c.__name__}{w}" for c, w, _ in CHANGES]
)


@pytest.fixture(params=["power", "process"])
def durability(request):
    return request.param


async def store_in(folder, durability="power"):
    """A store with a session in the file and its steps in the log."""
    folder.mkdir(exist_ok=True)
    store = SqliteStore.open(folder / "s.db", durability)
    [record] = await opened(store, "a", outputs=bytes(100_000))
    store._log._try_checkpoint("TRUNCATE")
    for _ in range(8):
        record = await commit(store, after(record), record)
    return store, record


async def test_a_log_truncated_after_its_last_frame_is_used_further(tmp_path):
    """After a restart the log is shorter than its file, so nothing is lost."""
    store, record = await store_in(tmp_path)
    await opened(store, "b", outputs=bytes(100_000))
    store._log._try_checkpoint("RESTART")
    record = await commit(store, after(record), record)
    truncate_half(tmp_path / "s.db-wal")
    record = await commit(store, after(record), record)
    await store.check()
    await store.close()
    again = SqliteStore.open(tmp_path / "s.db", "power")
    assert await again.load(A) == record
    await again.close()


async def assert_refused(store, record, reason):
    with pytest.raises(StoreUnavailableError, match=reason) as caught:
        await commit(store, after(record), record)
    assert "stop the service, restore a backup" in caught.value.detail
    assert "s.db" not in caught.value.detail
    assert caught.value.__cause__ is None, "it would be logged for each request"
    with pytest.raises(StoreUnavailableError, match=reason):
        await store.check()
    with pytest.raises(StoreUnavailableError, match=reason):
        await store.load(A)
    for asked in (store.list_live("t", None, "", 9), store.usage("t"), store.sweep(9)):
        with pytest.raises(StoreUnavailableError, match=reason):
            await asked


@EVERY_CHANGE
async def test_the_next_step_is_refused_with_the_reason(
    tmp_path, durability, change, which, reason
):
    store, record = await store_in(tmp_path / "var", durability)
    change(tmp_path / "var" / f"s.db{which}")
    await assert_refused(store, record, reason)
    await assert_refused(store, record, reason)
    await store.close()


@EVERY_CHANGE
async def test_the_next_readiness_check_reports_the_reason(tmp_path, change, which, reason):
    store, _ = await store_in(tmp_path / "var")
    change(tmp_path / "var" / f"s.db{which}")
    with pytest.raises(StoreUnavailableError, match=reason):
        await store.check()
    await store.close()


@EVERY_CHANGE
async def test_each_of_two_processes_refuses(tmp_path, change, which, reason):
    one, record = await store_in(tmp_path / "var")
    two = SqliteStore.open(tmp_path / "var" / "s.db", "power")
    record = await commit(two, after(record), record)
    change(tmp_path / "var" / f"s.db{which}")
    for store in (one, two):
        with pytest.raises(StoreUnavailableError, match=reason):
            await store.check()
        await assert_refused(store, record, reason)
    await one.close()
    await two.close()


@pytest.mark.parametrize("is_log_restarted", [False, True])
async def test_an_idle_process_refuses_although_another_wrote_after_the_hole(
    tmp_path, is_log_restarted
):
    one, record = await store_in(tmp_path)
    two = SqliteStore.open(tmp_path / "s.db", "power")
    await two.check()
    for _ in range(100):
        record = await commit(one, after(record), record)
    if is_log_restarted:
        await two.check()
        one._log._try_checkpoint("RESTART")
        for _ in range(50):
            record = await commit(one, after(record), record)
    log = tmp_path / "s.db-wal"
    os.truncate(log, log.stat().st_size // 4)
    for store in (one, two):
        with pytest.raises(StoreUnavailableError, match="its write-ahead log was truncated"):
            await store.check()
        await assert_refused(store, record, "its write-ahead log was truncated")
    await one.close()
    await two.close()


@EVERY_CHANGE
async def test_a_process_that_has_only_read_refuses_with_the_reason_alone(
    tmp_path, change, which, reason
):
    one, record = await store_in(tmp_path / "var")
    two = SqliteStore.open(tmp_path / "var" / "s.db", "power")
    record = await commit(one, after(record), record)
    change(tmp_path / "var" / f"s.db{which}")
    for work in (two.load(A), two.usage("t"), two.load(A), two.check()):
        with pytest.raises(StoreUnavailableError, match=reason) as caught:
            await work
        assert caught.value.__cause__ is None
    await one.close()
    await two.close()


@EVERY_CHANGE
async def test_a_step_that_was_being_written_meanwhile_is_not_acknowledged(
    tmp_path, monkeypatch, change, which, reason
):
    """The files change between the previous check and the write."""
    store, record = await store_in(tmp_path / "var", "process")
    write = store._inline_file.commit

    def change_then_write(writes):
        change(tmp_path / "var" / f"s.db{which}")
        return write(writes)

    monkeypatch.setattr(sqlite, "_INLINE_S", 60.0)
    monkeypatch.setattr(store._inline_file, "commit", change_then_write)
    with pytest.raises(StoreUnavailableError, match=reason):
        await commit(store, after(record), record)
    await store.close()


@pytest.mark.parametrize("which", [FILE, LOG, INDEX])
async def test_a_restored_file_is_used_again_with_every_acknowledged_step(
    tmp_path, durability, which
):
    store, record = await store_in(tmp_path, durability)
    path = tmp_path / f"s.db{which}"
    away = path.with_name("away")
    path.rename(away)
    with capture_logs() as logs:
        await assert_refused(store, record, "removed or renamed")
        away.rename(path)
        await store.check()
    assert [line["log_level"] for line in logs] == ["error", "info"]
    found = await store.load(A)
    assert found.step >= record.step
    assert await commit(store, after(found), found)
    await store.close()
    again = SqliteStore.open(tmp_path / "s.db", durability)
    assert (await again.load(A)).step == found.step + 1
    await again.close()


@pytest.mark.parametrize("is_check_running", [False, True])
async def test_a_removed_log_is_moved_into_the_file_at_once(tmp_path, is_check_running):
    """Nothing that was acknowledged is lost if the process is killed then."""
    store, record = await store_in(tmp_path)
    if is_check_running:
        store._log._check_idle()
    (tmp_path / "s.db-wal").unlink()
    with pytest.raises(StoreUnavailableError):
        await store.check()
    while store._log._running is not None:
        await store._log._running
    shutil.copy(tmp_path / "s.db", tmp_path / "copy.db")
    copy = SqliteStore.open(tmp_path / "copy.db", "power")
    assert await copy.load(A) == record
    await copy.close()
    await store.close()


@pytest.mark.parametrize("change", [truncate, truncate_half])
async def test_a_process_that_starts_with_a_truncated_log_is_refused(tmp_path, change):
    """It would use the shared index of the log, and write after the hole."""
    store, record = await store_in(tmp_path)
    change(tmp_path / "s.db-wal")
    with pytest.raises(StartUpError, match="CARRY_STORE"):
        SqliteStore.open(tmp_path / "s.db", "power")
    await assert_refused(store, record, "its write-ahead log was truncated")
    await store.close()
    again = SqliteStore.open(tmp_path / "s.db", "power")
    assert (await again.load(A)).step < record.step
    await again.close()


async def test_a_log_that_another_process_may_have_replaced_is_not_moved_into_the_file(tmp_path):
    store, _ = await store_in(tmp_path)
    replace_by_a_copy(tmp_path / "s.db-wal")
    before = (tmp_path / "s.db").read_bytes()
    with pytest.raises(StoreUnavailableError):
        await store.check()
    assert store._log._running is None
    store._log._try_checkpoint("RESTART")
    await store.close()
    assert (tmp_path / "s.db").read_bytes() == before


async def test_a_closing_store_leaves_the_files_of_its_successor_alone(tmp_path):
    store, _ = await store_in(tmp_path / "var")
    rename_folder(tmp_path / "var" / "s.db")
    successor, record = await store_in(tmp_path / "var")
    await store.close()
    assert (tmp_path / "var" / "s.db-wal").exists()
    assert await commit(successor, after(record), record)
    await successor.close()


async def test_a_vacuum_by_another_process_is_not_a_truncation(tmp_path):
    store, record = await store_in(tmp_path)
    await opened(store, *(f"other-{index}" for index in range(50)), outputs=bytes(10_000))
    store._log._try_checkpoint("RESTART")
    await store.check()
    before = (tmp_path / "s.db").stat().st_size
    other = apsw.Connection(str(tmp_path / "s.db"))
    other.execute("DELETE FROM states WHERE id > 1; DELETE FROM sessions WHERE id > 1; VACUUM")
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    assert (tmp_path / "s.db").stat().st_size < before
    assert await commit(store, after(record), record)
    await store.check()
    await store.close()


async def test_a_checkpoint_by_another_process_is_not_a_truncation(tmp_path):
    one, record = await store_in(tmp_path)
    two = SqliteStore.open(tmp_path / "s.db", "power")
    for _ in range(3):
        for store, other in ((one, two), (two, one)):
            other._log._try_checkpoint("TRUNCATE")
            for _ in range(20):
                record = await commit(store, after(record), record)
                assert record is not None
            await other.check()
    await one.close()
    await two.close()
