"""The log is bounded by its own length: with few small sessions, when idle, after a kill."""

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
    """The last record, and the greatest length of the log."""
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
    bases = [(await opened(store, str(index)))[0] for index, store in enumerate(stores)]
    stepping = [
        step_many(store, base, num_steps, tmp_path)
        for store, base in zip(stores, bases, strict=True)
    ]
    found = await asyncio.gather(*stepping)
    assert max(peak for _, peak in found) < 4 * CHECKPOINT_BYTES
    for store in stores:
        await store.close()


async def test_the_log_of_a_killed_process_is_checkpointed_at_the_start(tmp_path, monkeypatch):
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


async def truncated(folder):
    async with asyncio.timeout(AT_MOST_S):
        while size_of_log(folder):  # noqa: ASYNC110 -- only the file shows it
            await asyncio.sleep(0.01)


@pytest.fixture
def _truncate_soon(monkeypatch):
    """A slow machine may truncate the log between steps, which leaves a few frames."""
    monkeypatch.setattr(sqlite_log, "_IDLE_AFTER_S", 0.01)
    monkeypatch.setattr(sqlite_log, "_SHORT_BYTES", 0)


@pytest.mark.usefixtures("_truncate_soon")
async def test_an_idle_log_is_truncated(tmp_path, durability):
    stores = [SqliteStore.open(tmp_path / "s.db", durability) for _ in range(2)]
    [record] = await opened(stores[0], "a")
    for _ in range(2):
        record, _ = await step_many(stores[0], record, 30, tmp_path)
        await truncated(tmp_path)
        assert await stores[1].load(record.key) == record
    for store in stores:
        await store.close()


@pytest.mark.usefixtures("_truncate_soon")
async def test_a_process_that_only_reports_readiness_truncates_the_log_of_another(tmp_path):
    killed, idle = [SqliteStore.open(tmp_path / "s.db", "power") for _ in range(2)]
    [record] = await opened(killed, "a")
    await step_many(killed, record, 30, tmp_path)
    killed._log._idle_timer.cancel()
    await idle.check()
    await truncated(tmp_path)
    for store in (idle, killed):
        await store.close()


async def test_a_short_log_is_not_truncated(tmp_path):
    """A service with a step now and then must not extend its log each time."""
    store = SqliteStore.open(tmp_path / "s.db", "power")
    [record] = await opened(store, "a")
    await step_many(store, record, 10, tmp_path)
    before = size_of_log(tmp_path)
    for _ in range(3):
        store._log._truncate_if_idle()
    assert size_of_log(tmp_path) == before > 0
    await store.close()


async def test_commits_wait_for_a_checkpoint_on_a_stalled_disk(tmp_path, monkeypatch):
    """The log grows to its bound meanwhile."""
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


def test_a_checkpoint_is_due_at_its_length_and_again_after_a_restart_of_the_log():
    log = log_of(0)
    log.grew_to(USUAL - 1)
    assert not log.is_due
    log.grew_to(USUAL)
    assert log.is_due
    log.checkpoint_ended(USUAL)
    assert not log.is_due
    log.grew_to(1)
    log.grew_to(USUAL - 1)
    assert not log.is_due
    log.grew_to(USUAL)
    assert log.is_due


def test_a_checkpoint_that_a_reader_blocks_is_retried_less_and_less_often():
    log, frames, gaps = log_of(0), USUAL, []
    log.grew_to(frames)
    for _ in range(6):
        log.checkpoint_ended(frames)
        start = frames
        while not log.is_due and frames < start + 10 * USUAL:
            frames += 1
            log.grew_to(frames)
        gaps.append(frames - start)
    assert gaps == [min(RETRY * 2**count, USUAL) for count in range(6)]


def test_a_restart_of_the_log_during_a_checkpoint_is_not_a_failure():
    log = log_of(0)
    log.grew_to(USUAL)
    log.grew_to(3)
    log.checkpoint_ended(USUAL)
    log.grew_to(USUAL - 1)
    assert not log.is_due


def test_the_log_of_an_earlier_process_is_due_at_once():
    assert log_of(USUAL).is_due
