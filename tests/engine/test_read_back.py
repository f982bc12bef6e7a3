"""The store's answer was lost: what became of the write is read back, and nothing applies twice."""

import time

import pytest

from service.engine.dispatch import group_commit as committer
from service.engine.dispatch.read_back import read_back
from service.engine.session.requests import DeleteRequest
from service.errors import OutcomeUnknownError, RecordUnreadableError, StoreUnavailableError
from service.stores.base import WritesFailedError
from service.stores.memory import MemoryStore
from tests.engine.support import A, create_load, outputs_of, rows, running_engine, step_rows
from tests.stores.support import after, commit, opened, record_named

LOST = OutcomeUnknownError("lost", retry_after_s=1)
BEFORE, BEHIND = "before it was applied", "behind it"


class LossyStore(MemoryStore):
    """Loses the answers of its next commits, before or behind their work, and may be away then."""

    def __init__(self):
        super().__init__(time.time)
        self.losses = []
        self.num_loads_failing = 0
        self.num_commits = 0
        self.load_error = None

    async def commit(self, writes):
        self.num_commits += 1
        loss = self.losses.pop(0) if self.losses else None
        if loss != BEFORE:
            kept = await super().commit(writes)
        if loss:
            raise WritesFailedError([LOST] * len(writes))
        return kept

    async def load(self, key):
        if self.num_loads_failing:
            self.num_loads_failing -= 1
            raise StoreUnavailableError("away", retry_after_s=1)
        if self.load_error:
            raise self.load_error
        return await super().load(key)


def write(record, base=None):
    return record.header, record.data, base


@pytest.mark.parametrize("loss", [BEFORE, BEHIND])
async def test_a_lost_answer_to_a_step_is_found_out_and_the_step_is_kept_once(loss):
    store = LossyStore()
    [base] = await opened(store, "a")
    step = after(base)
    store.losses = [loss]
    with pytest.raises(WritesFailedError) as caught:
        await store.commit([write(step, base)])
    [kept] = await read_back(store, [write(step, base)], caught.value.outcomes, 5.0)
    assert kept == await store.load(base.key)
    assert kept.data == step.data
    assert store.num_commits == 2 + (loss == BEFORE)


@pytest.mark.parametrize("loss", [BEFORE, BEHIND])
async def test_a_lost_answer_to_a_creation_is_found_out(loss):
    store = LossyStore()
    record = record_named()
    store.losses = [loss]
    with pytest.raises(WritesFailedError):
        await store.commit([write(record)])
    [kept] = await read_back(store, [write(record)], [LOST], 5.0)
    assert kept == await store.load(record.key)


async def test_where_another_writer_was_first_the_race_is_lost():
    store = LossyStore()
    [base] = await opened(store, "a")
    await commit(store, after(base), base)
    assert await read_back(store, [write(after(base), base)], [LOST], 5.0) == [None]
    assert await read_back(store, [write(record_named())], [LOST], 5.0) == [None]
    gone = record_named("gone")
    assert await read_back(store, [write(after(gone), gone)], [LOST], 5.0) == [None]


async def test_answers_that_are_lost_again_and_a_store_that_is_away_are_waited_for():
    store = LossyStore()
    [base] = await opened(store, "a")
    store.losses, store.num_loads_failing = [BEFORE, BEFORE, BEHIND], 3
    step = after(base)
    [kept] = await read_back(store, [write(step, base)], [LOST], 5.0)
    assert kept == await store.load(base.key)
    assert kept.data == step.data


async def test_what_cannot_be_found_out_stays_unknown_and_nothing_is_waited_for_forever():
    store = LossyStore()
    [base] = await opened(store, "a")
    store.num_loads_failing = 10**9
    started = time.monotonic()
    assert await read_back(store, [write(after(base), base)], [LOST], 0.1) == [LOST]
    assert time.monotonic() - started < 5


def silent(error):
    error.is_silent = True
    return error


async def test_a_store_that_did_not_answer_in_time_is_not_asked_again():
    store = LossyStore()
    [base] = await opened(store, "a")
    lost = silent(OutcomeUnknownError("no answer within 2 s", retry_after_s=1))
    store.load_error = AssertionError("asked")
    assert await read_back(store, [write(after(base), base)], [lost], 5.0) == [lost]


async def test_a_store_that_is_silent_when_it_is_asked_is_asked_once():
    store = LossyStore()
    one, two = await opened(store, "a", "b")
    loaded, load = [], store.load

    async def load_one(key):
        loaded.append(key)
        if key == one.key:
            raise silent(StoreUnavailableError("no answer within 2 s", retry_after_s=1))
        return await load(key)

    store.load = load_one
    step = after(two)
    writes = [write(after(one), one), write(step, two)]
    given_up, kept = await read_back(store, writes, [LOST, LOST], 5.0)
    assert isinstance(given_up, OutcomeUnknownError)
    assert given_up.retry_after_s == 1
    assert kept.data == step.data
    assert loaded == [one.key, two.key]


async def test_outcomes_that_are_known_are_left_alone():
    store = LossyStore()
    [base] = await opened(store, "a")
    refused = StoreUnavailableError("full", retry_after_s=1)
    writes = [write(after(base), base)] * 3
    assert await read_back(store, writes, [base, None, refused], 5.0) == [base, None, refused]
    assert store.num_commits == 1


async def test_a_record_that_cannot_be_read_is_told_by_itself():
    store = LossyStore()
    [base] = await opened(store, "a")
    store.load_error = RecordUnreadableError("damaged")
    assert await read_back(store, [write(after(base), base)], [LOST], 5.0) == [store.load_error]


@pytest.mark.parametrize("loss", [BEFORE, BEHIND])
async def test_a_client_never_notices_answers_that_the_store_lost(loss):
    store, values = LossyStore(), rows(4)
    async with running_engine(store) as engine, running_engine() as calm:
        for each in (engine, calm):
            store.losses = [loss]
            reply = await each.submit(A, create_load())
            assert (reply.step, reply.is_new) == (0, True)
            for step in range(4):
                store.losses = [loss]
                reply = await each.submit(A, step_rows(values[step : step + 1], step))
                assert (reply.step, reply.is_replay) == (step + 1, False)
            if each is engine:
                answered = outputs_of(reply)["mean"]
        assert outputs_of(reply)["mean"] == pytest.approx(answered)
        store.losses = [loss]
        assert (await engine.submit(A, DeleteRequest())).record.closed == "deleted"


async def test_a_step_whose_fate_stays_unknown_is_503_and_its_retry_is_applied_once(monkeypatch):
    monkeypatch.setattr(committer, "_PATIENCE_S", 0.05)
    store = LossyStore()
    async with running_engine(store) as engine:
        await engine.submit(A, create_load())
        store.losses, store.num_loads_failing = [BEHIND], 10**9
        with pytest.raises(OutcomeUnknownError) as caught:
            await engine.submit(A, step_rows(rows(1), 0))
        assert (caught.value.status, caught.value.retry_after_s) == (503, 1)
        store.num_loads_failing = 0
        again = await engine.submit(A, step_rows(rows(1), 0))
        assert (again.step, again.is_replay) == (1, True)
