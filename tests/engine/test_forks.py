"""A fork goes on as its source would have, and neither ever sees the other."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.session.requests import DeleteRequest, ForkRequest
from service.errors import (
    ReplayExpiredError,
    SessionClosedError,
    SessionExistsError,
    SessionExpiredError,
    SessionNotFoundError,
)
from service.stores.memory import MemoryStore
from service.stores.record.history import HistoryPolicy
from service.stores.record.record import Key
from tests.engine.support import (
    A,
    ScriptedStore,
    Witness,
    create_load,
    create_mood,
    rows,
    running_engine,
    step_rows,
    step_text,
)

B = Key("t", "b")
FORK = ForkRequest(A)


@given(st.integers(0, 6), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 99))
def test_a_fork_stepped_answers_what_the_source_stepped_answers(num_before, counts, seed):
    values = rows(num_before + sum(counts), seed)

    async def check():
        async with running_engine() as engine:
            await engine.submit(A, create_load(values[:num_before] if num_before else None))
            forked = await engine.submit(B, FORK)
            assert (forked.step, forked.is_new) == (num_before, True)
            step = num_before
            for count in counts:
                request = step_rows(values[step : step + count], step)
                theirs, ours = [await engine.submit(key, request) for key in (A, B)]
                assert ours.outputs == theirs.outputs
                assert ours.record.state == theirs.record.state
                step += count

    asyncio.run(check())


@pytest.mark.parametrize("end", [" film", "ly bad film"])
async def test_a_fork_of_a_text_goes_on_inside_a_word(end):
    async with running_engine() as engine:
        await engine.submit(A, create_mood())
        await engine.submit(A, step_text("a wonderful"))
        await engine.submit(B, FORK)
        ours, theirs = [await engine.submit(key, step_text(end, 1)) for key in (B, A)]
        assert ours.outputs == theirs.outputs


async def test_source_and_fork_go_their_own_ways():
    async with running_engine() as engine:
        await engine.submit(A, create_load(rows(2)))
        await engine.submit(B, FORK)
        ours = await engine.submit(B, step_rows(rows(1, seed=1), 2))
        theirs = await engine.submit(A, step_rows(rows(1, seed=2), 2))
        assert ours.outputs != theirs.outputs
        await engine.submit(A, DeleteRequest())
        assert (await engine.submit(B, step_rows(rows(1), 3))).step == 4


async def test_a_fork_has_no_reply_of_the_source_but_all_else():
    async with running_engine() as engine:
        header = create_load(rows(2), metadata={"a": 1}, ttl_s=50, keeps=HistoryPolicy(2, 1, 3))
        await engine.submit(A, header)
        await engine.submit(A, step_rows(rows(1), 2, key=None))
        reply = await engine.submit(B, FORK)
        source, fork = await engine.read(A), await engine.read(B)
        assert (fork.kept_replies, fork.history.keys) == ((), ())
        assert fork.history.checkpoints == source.history.checkpoints != ()
        assert fork.history.observations == source.history.observations != ()
        assert (fork.ttl_s, fork.header.metadata) == (50, {"a": 1})
        assert reply.outputs == b""
        with pytest.raises(ReplayExpiredError):
            await engine.submit(B, step_rows(rows(1), 2))


async def test_a_fork_may_have_a_life_and_notes_of_its_own():
    async with running_engine() as engine:
        await engine.submit(A, create_load(metadata={"a": 1}))
        await engine.submit(B, ForkRequest(A, ttl_s=7, metadata={}))
        fork = await engine.read(B)
        assert (fork.ttl_s, fork.header.metadata) == (7, {})


async def test_forking_again_answers_the_first_fork_though_the_source_went_on():
    async with running_engine() as engine:
        await engine.submit(A, create_load(rows(2)))
        await engine.submit(B, FORK)
        await engine.submit(A, step_rows(rows(1), 2))
        await engine.submit(B, step_rows(rows(2), 2))
        again = await engine.submit(B, FORK)
        assert (again.is_replay, again.is_new, again.step) == (True, True, 2)
        assert (await engine.read(B)).step == 4
        with pytest.raises(SessionExistsError):
            await engine.submit(B, ForkRequest(A, ttl_s=9))
        await engine.submit(A, DeleteRequest())
        assert (await engine.submit(B, FORK)).is_replay


async def test_what_cannot_be_stepped_cannot_be_forked():
    now = 1000.0
    async with running_engine(MemoryStore(lambda: now)) as engine:
        with pytest.raises(SessionNotFoundError, match="'a'"):
            await engine.submit(B, FORK)
        await engine.submit(A, create_load(ttl_s=10))
        with pytest.raises(SessionExistsError):
            await engine.submit(A, FORK)
        now += 11
        with pytest.raises(SessionExpiredError):
            await engine.submit(B, FORK)
        await engine.submit(A, create_load(ttl_s=10))
        await engine.submit(A, DeleteRequest())
        with pytest.raises(SessionClosedError):
            await engine.submit(B, FORK)
        assert await engine.store.load(B) is None


async def test_a_fork_takes_the_source_from_the_store_and_not_from_its_cache():
    store = MemoryStore()
    async with running_engine(store) as engine, running_engine(store) as rival:
        await engine.submit(A, create_load())
        await engine.submit(A, step_rows(rows(1), 0))
        await rival.submit(A, step_rows(rows(3), 1))
        assert (await engine.submit(B, FORK)).step == 4


async def test_a_fork_that_loses_its_name_to_another_request_is_refused():
    store = ScriptedStore()
    async with running_engine(store) as engine, running_engine(store) as rival:
        await engine.submit(A, create_load())
        store.before_commit = lambda _: rival.submit(B, create_mood())
        with pytest.raises(SessionExistsError):
            await engine.submit(B, FORK)


async def test_a_fork_is_told_as_one_and_makes_no_steps():
    class CallbackFuture(Witness):
        def __init__(self):
            super().__init__()
            self.told, self.num_steps = [], 0

        def session_created(self, model, version):
            self.told.append("created")

        def session_operated(self, model, version, operation):
            self.told.append(operation)

        def steps_committed(self, model, version, count):
            self.num_steps += count

    told = CallbackFuture()
    async with running_engine(observer=told) as engine:
        await engine.submit(A, create_load(rows(3)))
        await engine.submit(B, FORK)
        await engine.submit(B, FORK)
    assert told.told == ["created", "created", "fork"]
    assert told.num_steps == 3
