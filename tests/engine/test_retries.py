"""What a client gets who asks again: the same answer, and nothing is applied twice."""

import asyncio

import numpy as np
import pytest

from service.engine.session.requests import DeleteRequest
from service.errors import (
    DigestMismatchError,
    ReplayExpiredError,
    SessionClosedError,
    SessionExistsError,
    SessionExpiredError,
    StepConflictError,
)
from service.stores.memory import MemoryStore
from tests.engine.support import (
    A,
    create_load,
    create_mood,
    outputs_of,
    rows,
    running_engine,
    step_rows,
    step_text,
)


async def test_a_retry_of_the_last_step_gets_the_same_reply_and_applies_nothing():
    async with running_engine() as engine:
        await engine.submit(A, create_load())
        first = await engine.submit(A, step_rows(rows(2), 0))
        again = await engine.submit(A, step_rows(rows(2), 0))
        assert again.is_replay
        assert not first.is_replay
        assert again.step == 2
        np.testing.assert_array_equal(outputs_of(again)["mean"], outputs_of(first)["mean"])
        assert (await engine.read(A)).step == 2


async def test_a_duplicate_in_flight_waits_and_is_then_replayed():
    async with running_engine() as engine:
        await engine.submit(A, create_load())
        replies = await asyncio.gather(*(engine.submit(A, step_rows(rows(1), 0)) for _ in range(5)))
        assert [reply.is_replay for reply in replies] == [False, True, True, True, True]


async def test_another_request_at_an_applied_step_is_refused():
    async with running_engine() as engine:
        await engine.submit(A, create_load())
        await engine.submit(A, step_rows(rows(1), 0))
        with pytest.raises(DigestMismatchError) as caught:
            await engine.submit(A, step_rows(rows(1, seed=5), 0))
        assert caught.value.members == {"expected_step": 1}


async def test_a_wrong_step_number_names_the_right_one():
    async with running_engine() as engine:
        await engine.submit(A, create_load(rows(4)))
        for step, error in ((5, StepConflictError), (3, ReplayExpiredError)):
            with pytest.raises(error) as caught:
                await engine.submit(A, step_rows(rows(1), step))
            assert caught.value.members == {"expected_step": 4}


async def test_replies_are_kept_as_many_as_were_asked_for():
    async with running_engine() as engine:
        await engine.submit(A, create_load(ring_size=3))
        for step in range(5):
            await engine.submit(A, step_rows(rows(1, seed=step), step))
        for step in (2, 3, 4):
            assert (await engine.submit(A, step_rows(rows(1, seed=step), step))).is_replay
        with pytest.raises(ReplayExpiredError):
            await engine.submit(A, step_rows(rows(1, seed=1), 1))


async def test_steps_without_a_number_are_applied_each_time():
    async with running_engine() as engine:
        await engine.submit(A, create_load())
        for count in (1, 2, 3):
            assert (await engine.submit(A, step_rows(rows(1)))).step == count


async def test_creating_again_applies_history_once():
    async with running_engine() as engine:
        first = await engine.submit(A, create_load(rows(3)))
        await engine.submit(A, step_rows(rows(1), 3))
        again = await engine.submit(A, create_load(rows(3)))
        assert again.is_replay
        assert again.step == 3
        np.testing.assert_array_equal(outputs_of(again)["mean"], outputs_of(first)["mean"])
        assert (await engine.read(A)).step == 4
        with pytest.raises(SessionExistsError):
            await engine.submit(A, create_load(rows(2)))
        resumed = await engine.submit(A, create_load(rows(2), resumes=True))
        assert (resumed.step, resumed.is_new) == (4, False)


async def test_racing_creations_of_one_name_make_one_session():
    store = MemoryStore()
    async with running_engine(store) as one, running_engine(store) as two:
        replies = await asyncio.gather(
            *(engine.submit(A, create_load(rows(3))) for engine in (one, two) * 4)
        )
        assert {reply.step for reply in replies} == {3}
        assert sum(not reply.is_replay for reply in replies) == 1


async def test_only_what_is_committed_renews_the_life_of_a_session():
    now = 1000.0
    async with running_engine(MemoryStore(lambda: now)) as engine:
        await engine.submit(A, create_load(ttl_s=10))
        now += 6
        await engine.submit(A, step_rows(rows(1), 0))
        now += 6
        for request in (step_rows(rows(1), 0), step_rows(rows(1), is_preview=True)):
            assert (await engine.submit(A, request)).record.expires_at == 1016
        assert (await engine.submit(A, create_load(ttl_s=10))).is_replay
        assert (await engine.read(A)).expires_at == 1016
        now += 5
        with pytest.raises(SessionExpiredError):
            await engine.submit(A, step_rows(rows(1), 1))


async def test_after_a_close_retries_are_answered_and_steps_refused():
    async with running_engine() as engine:
        await engine.submit(A, create_mood())
        last = await engine.submit(A, step_text("a waste", 0, final=True))
        again = await engine.submit(A, step_text("a waste", 0, final=True))
        assert again.is_replay
        np.testing.assert_array_equal(
            outputs_of(again)["probabilities"], outputs_of(last)["probabilities"]
        )
        with pytest.raises(SessionClosedError, match="final"):
            await engine.submit(A, step_text("more", 1))
        assert (await engine.submit(A, DeleteRequest())).is_replay
        assert (await engine.submit(A, create_mood())).is_new
