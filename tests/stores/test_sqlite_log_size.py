"""The log is bounded by its own length: of few small sessions, when idle, and behind a kill."""

import asyncio
import shutil

import pytest

from service.stores.sqlite import log as sqlite_log
from service.stores.sqlite import log_size as sqlite_log_size
from service.stores.sqlite.log_size import LogSize
from service.stores.sqlite.store import SqliteStore
from tests.stores.support import after, commit, opened

AT_MOST_S = 60.0
CHECKPOINT_BYTES = 300_000
FRAME_BYTES = 8216


@pytest.fixture(autouse=True)
def _checkpoint_often(monkeypatch):
    monkeypatch.setattr(sqlite_log_size, "CHECKPOINT_BYTES", CHECKPOINT_BYTES)
    monkeypatch.setattr(sqlite_log_size, "RETRY_BYTES", CHECKPOINT_BYTES // 8)
    monkeypatch.setattr(sqlite_log_size, "FULL_BYTES", 2 * CHECKPOINT_BYTES)


@pytest.fixture(params=["power", "process"])
def durability(request):
    return request.param


def size_of_log(folder):
    return (folder / "s.db-wal").stat().st_size


async def step_many(store, record, num_steps, folder):
    """The record behind them, and the greatest length of the log."""
    peak = 0
    for _ in range(num_steps):
        record = await commit(store, after(record), record)
        assert record is not None
        peak = max(peak, size_of_log(folder))
    return record, peak


async def test_the_log_of_one_small_session_stays_small(tmp_path, durability):
    store = SqliteStore.open(tmp_path / "s.db", durability)
    [record] = await opened(store, "a")
    num_steps = 10 * CHECKPOINT_BYTES // FRAME_BYTES
    _, peak = await step_many(store, record, num_steps, tmp_path)
    assert peak < 3 * CHECKPOINT_BYTES
    await store.close()


async def test_the_log_stays_small_while_sessions_are_opened_and_deleted(tmp_path, durability):
    store, peak = SqliteStore.open(tmp_path / "s.db", durability), 0
    for number in range(80):
        [record] = await opened(store, f"s{number}")
        assert await commit(store, after(record, closed="deleted"), record)
        peak = max(peak, size_of_log(tmp_path))
    assert peak < 3 * CHECKPOINT_BYTES
    await store.close()


async def test_named_values_probes_and_sweeps_count_too(tmp_path):
    store, peak, value = SqliteStore.open(tmp_path / "s.db", "process"), 0, b""
    for number in range(120):
        new = number.to_bytes(8, "little")
        assert await store.swap_value("v", value, new)
        value = new
        await store.check()
        await store.sweep(10)
        peak = max(peak, size_of_log(tmp_path))
    assert peak < 3 * CHECKPOINT_BYTES
    await store.close()


async def test_the_log_stays_small_when_two_stores_step_small_sessions(tmp_path, durability):
    stores = [SqliteStore.open(tmp_path / "s.db", durability) for _ in range(2)]
    num_steps = 5 * CHECKPOINT_BYTES // FRAME_BYTES
    bases = [(await opened(store, str(place)))[0] for place, store in enumerate(stores)]
    stepping = [
        step_many(store, base, num_steps, tmp_path)
        for store, base in zip(stores, bases, strict=True)
    ]
    found = await asyncio.gather(*stepping)
    assert max(peak for _, peak in found) < 4 * CHECKPOINT_BYTES
    for store in stores:
        await store.close()


async def test_a_log_that_a_killed_process_left_is_taken_up_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_log_size, "CHECKPOINT_BYTES", 10**9)
    (tmp_path / "killed").mkdir()
    store = SqliteStore.open(tmp_path / "s.db", "power")
    [record] = await opened(store, "a")
    record, _ = await step_many(store, record, 100, tmp_path)
    for name in ("s.db", "s.db-wal"):
        shutil.copy(tmp_path / name, tmp_path / "killed" / name)
    await store.close()
    monkeypatch.setattr(sqlite_log_size, "CHECKPOINT_BYTES", CHECKPOINT_BYTES)
    assert size_of_log(tmp_path / "killed") > CHECKPOINT_BYTES
    again = SqliteStore.open(tmp_path / "killed" / "s.db", "power")
    assert size_of_log(tmp_path / "killed") == 0
    assert await again.load(record.key) == record
    await again.close()


async def cut(folder):
    async with asyncio.timeout(AT_MOST_S):
        while size_of_log(folder):  # noqa: ASYNC110 -- the file is all that tells
            await asyncio.sleep(0.01)


async def test_a_log_that_nobody_writes_any_more_is_cut(tmp_path, monkeypatch, durability):
    monkeypatch.setattr(sqlite_log, "_QUIET_AFTER_S", 0.01)
    monkeypatch.setattr(sqlite_log, "_SHORT_BYTES", 5 * FRAME_BYTES)
    stores = [SqliteStore.open(tmp_path / "s.db", durability) for _ in range(2)]
    [record] = await opened(stores[0], "a")
    for _ in range(2):
        record, _ = await step_many(stores[0], record, 30, tmp_path)
        await cut(tmp_path)
        assert await stores[1].load(record.key) == record
    for store in stores:
        await store.close()


async def test_a_log_that_a_process_left_is_cut_by_the_one_that_is_only_asked_for_readiness(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(sqlite_log, "_QUIET_AFTER_S", 0.01)
    monkeypatch.setattr(sqlite_log, "_SHORT_BYTES", 5 * FRAME_BYTES)
    killed, idle = [SqliteStore.open(tmp_path / "s.db", "power") for _ in range(2)]
    [record] = await opened(killed, "a")
    await step_many(killed, record, 30, tmp_path)
    killed._log._quiet_timer.cancel()
    await idle.check()
    await cut(tmp_path)
    for store in (idle, killed):
        await store.close()


async def test_a_short_log_is_left_as_it_is(tmp_path, monkeypatch):
    """A service that is stepped now and then must not make its log anew each time."""
    store = SqliteStore.open(tmp_path / "s.db", "power")
    [record] = await opened(store, "a")
    await step_many(store, record, 10, tmp_path)
    before = size_of_log(tmp_path)
    for _ in range(3):
        store._log._cut_if_quiet()
    assert size_of_log(tmp_path) == before > 0
    await store.close()


async def test_commits_wait_for_a_checkpoint_that_a_stalled_disk_holds_up(tmp_path, monkeypatch):
    """The log grows to its bound beside it, and no further."""
    store = SqliteStore.open(tmp_path / "s.db", "process")
    [record] = await opened(store, "a")
    stalled = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(store._log, "_checkpoint", lambda how="PASSIVE": stalled)
    stepping = asyncio.create_task(step_many(store, record, 1000, tmp_path))
    async with asyncio.timeout(AT_MOST_S):
        while not stepping.done() and size_of_log(tmp_path) < 2 * CHECKPOINT_BYTES - FRAME_BYTES:
            await asyncio.wait({stepping}, timeout=0.1)
    assert not stepping.done()
    assert size_of_log(tmp_path) <= 2 * CHECKPOINT_BYTES + 2 * FRAME_BYTES
    monkeypatch.undo()
    stalled.set_result(None)
    _, _ = await stepping
    await store.close()


def log_of(num_frames):
    return LogSize(FRAME_BYTES, num_frames)


USUAL, RETRY = CHECKPOINT_BYTES // FRAME_BYTES, CHECKPOINT_BYTES // 8 // FRAME_BYTES


def test_a_checkpoint_is_due_at_its_length_and_behind_a_new_beginning_again():
    log = log_of(0)
    log.grew_to(USUAL - 1)
    assert not log.is_due
    log.grew_to(USUAL)
    assert log.is_due
    log.was_tried(USUAL)
    assert not log.is_due
    log.grew_to(1)
    log.grew_to(USUAL - 1)
    assert not log.is_due
    log.grew_to(USUAL)
    assert log.is_due


def test_one_that_a_reader_holds_up_is_tried_again_less_and_less_often():
    log, frames, gaps = log_of(0), USUAL, []
    log.grew_to(frames)
    for _ in range(6):
        log.was_tried(frames)
        start = frames
        while not log.is_due and frames < start + 10 * USUAL:
            frames += 1
            log.grew_to(frames)
        gaps.append(frames - start)
    assert gaps == [min(RETRY * 2**count, USUAL) for count in range(6)]


def test_a_checkpoint_during_which_the_log_was_begun_anew_is_no_failure():
    log = log_of(0)
    log.grew_to(USUAL)
    log.grew_to(3)
    log.was_tried(USUAL)
    log.grew_to(USUAL - 1)
    assert not log.is_due


def test_a_log_of_a_process_before_is_due_at_once():
    assert log_of(USUAL).is_due
