"""An Idempotency-Key stands for the step of a client that counts none."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.session.requests import DeleteRequest
from service.errors import DigestMismatchError, SessionClosedError
from service.stores.memory import MemoryStore
from service.stores.record.record import Key
from tests.engine.support import (
    A,
    ScriptedStore,
    create_load,
    create_mood,
    rows,
    running_engine,
    step_rows,
    step_text,
)

K, L = b"k" * 16, b"l" * 16


async def test_a_retry_under_the_same_key_is_answered_and_not_applied():
    async with running_engine() as engine:
        await engine.submit(A, create_load())
        first = await engine.submit(A, step_rows(rows(2), key=K))
        again = await engine.submit(A, step_rows(rows(2), key=K))
        assert (again.is_replay, again.step, again.outputs) == (True, 2, first.outputs)
        other = await engine.submit(A, step_rows(rows(2), key=L))
        assert (other.is_replay, other.step) == (False, 4)
        assert (await engine.read(A)).step == 4


async def test_another_request_under_the_same_key_is_refused():
    async with running_engine() as engine:
        await engine.submit(A, create_load())
        await engine.submit(A, step_rows(rows(1), key=K))
        with pytest.raises(DigestMismatchError, match="Idempotency-Key") as caught:
            await engine.submit(A, step_rows(rows(1, seed=5), key=K))
        assert caught.value.members == {"expected_step": 1}


async def test_retries_in_flight_are_applied_once_whichever_replica_they_reach():
    store = MemoryStore()
    async with running_engine(store) as one, running_engine(store) as two:
        await one.submit(A, create_load())
        replies = await asyncio.gather(
            *(engine.submit(A, step_rows(rows(1), key=K)) for engine in (one, two) * 4)
        )
        assert {reply.step for reply in replies} == {1}
        assert sum(not reply.is_replay for reply in replies) == 1


async def test_a_key_is_known_as_long_as_its_reply_is_in_the_ring():
    async with running_engine() as engine:
        await engine.submit(A, create_load(ring_size=2))
        await engine.submit(A, step_rows(rows(1), key=K))
        await engine.submit(A, step_rows(rows(1)))
        assert (await engine.submit(A, step_rows(rows(1), key=K))).is_replay
        await engine.submit(A, step_rows(rows(1)))
        assert (await engine.submit(A, step_rows(rows(1), key=K))).step == 4


async def test_a_key_survives_the_end_of_its_session():
    async with running_engine() as engine:
        await engine.submit(A, create_mood())
        await engine.submit(A, step_text("a waste", key=K, final=True))
        assert (await engine.submit(A, step_text("a waste", key=K, final=True))).is_replay
        with pytest.raises(SessionClosedError):
            await engine.submit(A, step_text("more", key=L))
        b = Key("t", "b")
        await engine.submit(b, create_load())
        await engine.submit(b, step_rows(rows(1), key=K))
        await engine.submit(b, DeleteRequest())
        assert (await engine.submit(b, step_rows(rows(1), key=K))).is_replay


async def test_a_new_key_is_decided_without_reading_the_store():
    store = ScriptedStore()
    async with running_engine(store) as engine:
        await engine.submit(A, create_load())
        loads = store.num_loads
        for key in (K, L):
            await engine.submit(A, step_rows(rows(1), key=key))
        assert store.num_loads == loads


async def test_a_session_is_plain_again_after_a_step_without_a_key():
    """So that one keyed request does not keep an older service from reading it."""
    async with running_engine() as engine:
        await engine.submit(A, create_load())
        keyed = await engine.submit(A, step_rows(rows(1), key=K))
        plain = await engine.submit(A, step_rows(rows(1)))
        assert (keyed.record.is_plain, plain.record.is_plain) == (False, True)


async def test_keyed_steps_of_many_sessions_at_once_are_each_known_again():
    """A batch of plain steps is packed by columns, which hold no keys."""
    async with running_engine() as engine:
        keys = [Key("t", str(place)) for place in range(20)]
        await asyncio.gather(*(engine.submit(key, create_load()) for key in keys))
        for is_replay in (False, True):
            asked = (engine.submit(key, step_rows(rows(1), key=K)) for key in keys)
            replies = await asyncio.gather(*asked)
            assert {(reply.is_replay, reply.step) for reply in replies} == {(is_replay, 1)}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), max_size=12), st.integers(1, 3))
def test_keys_apply_what_a_client_that_never_retries_would_send(sends, ring_size):
    """`sends` are (key, value): the model of the ring is a list of the last replies."""

    async def check():
        async with running_engine() as engine:
            await engine.submit(A, create_load(ring_size=ring_size))
            ring, step = [], 0
            for key, value in sends:
                request = step_rows(np.full((1, 2), value, np.float32), key=bytes([key + 1]) * 16)
                known = [each for each in ring if each[0] == key]
                if known and known[0][1] != value:
                    with pytest.raises(DigestMismatchError):
                        await engine.submit(A, request)
                    continue
                reply = await engine.submit(A, request)
                assert reply.is_replay == bool(known)
                if known:
                    assert reply.step == known[0][2]
                    continue
                step += 1
                ring = [*ring, (key, value, step)][-ring_size:]
                assert reply.step == step

    asyncio.run(check())
