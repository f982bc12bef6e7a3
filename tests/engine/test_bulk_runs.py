"""Many rows of one session in a bulk: applied as runs, answered as if they had come one by one."""

import asyncio

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.limits import EngineLimits
from service.errors import (
    CarryError,
    DeadlineError,
    NotFiniteError,
    SessionNotFoundError,
    SkippedError,
    StoreUnavailableError,
)
from service.stores.memory import MemoryStore
from service.stores.record.history import HistoryPolicy
from service.stores.record.record import Key
from tests.engine.support import (
    A,
    ScriptedStore,
    Witness,
    create_load,
    held_graphs,
    rows,
    running_engine,
    step_rows,
)
from tests.engine.test_finiteness import spoilt_models
from tests.fakes.overflow import HUGE

KEYS = [Key("t", str(place)) for place in range(4)]
NOBODY = Key("t", "nobody")
UNKNOWN = DeadlineError, StoreUnavailableError


async def one_by_one(engine, keys, values, steps):
    """What each row comes to as a request of its own, behind a failed one of its session not."""
    outcomes, failed = [], set()
    for place, key in enumerate(keys):
        if key in failed:
            outcomes.append(SkippedError)
            continue
        try:
            request = step_rows(values[place : place + 1], steps[place])
            outcomes.append(await engine.submit(key, request))
        except CarryError as error:
            failed.add(key)
            outcomes.append(type(error))
    return outcomes


def told(outcomes, place):
    return type(outcomes.errors[place]) if place in outcomes.errors else outcomes.steps[place]


rows_of_sessions = st.lists(
    st.tuples(
        st.sampled_from([*KEYS[:2], *KEYS[:2], *KEYS, NOBODY]),
        st.sampled_from(["given", "given", "given", "none", "wrong"]),
        st.integers(0, 40).map(lambda drawn: drawn == 0),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=15, deadline=None)
@given(rows_of_sessions, st.sampled_from([1, 2, 5, 64]))
def test_rows_are_answered_as_if_they_had_come_one_by_one(asked, max_run_rows):
    keys = [key for key, _, _ in asked]
    values = rows(len(asked), seed=len(asked))
    counts = dict.fromkeys([*KEYS, NOBODY], 0)
    steps = []
    for place, (key, how, is_spoilt) in enumerate(asked):
        if is_spoilt:
            values[place, 0] = HUGE
        steps.append({"given": counts[key], "none": None, "wrong": 99}[how])
        counts[key] += 1

    async def check():
        async with (
            running_engine(registry=spoilt_models()) as engine,
            running_engine(registry=spoilt_models()) as other,
        ):
            for key in KEYS:
                for each in (engine, other):
                    await each.submit(key, create_load())
            outcomes = await engine.step_rows(keys, values, steps, max_run_rows)
            for place, expected in enumerate(await one_by_one(other, keys, values, steps)):
                if isinstance(expected, type):
                    assert told(outcomes, place) is expected, place
                    continue
                assert told(outcomes, place) == expected.step
                np.testing.assert_allclose(
                    np.frombuffer(outcomes.outputs[place], np.float32),
                    np.frombuffer(expected.outputs, np.float32),
                    atol=1e-5,
                )
            for key in KEYS:
                found, expected = await engine.read(key), await other.read(key)
                assert found.step == expected.step
                np.testing.assert_allclose(
                    np.frombuffer(found.state, np.float32),
                    np.frombuffer(expected.state, np.float32),
                    atol=1e-5,
                )

    asyncio.run(check())


async def test_many_rows_of_one_session_are_few_commits():
    witness = Witness()
    async with running_engine(observer=witness) as engine:
        await engine.submit(A, create_load())
        witness.group_rows.clear()
        outcomes = await engine.step_rows([A] * 1000, rows(1000), range(1000), 256)
        assert outcomes.steps == list(range(1, 1001))
        assert witness.group_rows == [1] * 4


async def test_a_bulk_that_comes_again_is_answered_from_the_kept_replies():
    async with running_engine() as engine:
        await engine.submit(A, create_load())
        await engine.submit(KEYS[1], create_load())
        keys, values, steps = [A, KEYS[1], A, A], rows(4), [0, 0, 1, 2]
        first = await engine.step_rows(keys, values, steps)
        again = await engine.step_rows(keys, values, steps)
        assert again.replayed == {0, 1, 2, 3}
        assert (again.steps, again.outputs) == (first.steps, first.outputs)
        assert (await engine.read(A)).step == 3


async def test_a_session_gets_its_checkpoints_as_often_as_it_asked_for():
    async with running_engine() as engine:
        keeps = HistoryPolicy(checkpoints=9, checkpoint_every=10, observations=5)
        await engine.submit(A, create_load(keeps=keeps))
        await engine.step_rows([A] * 45, rows(45), [None] * 45)
        kept = (await engine.read(A)).history
        assert [each.step for each in kept.checkpoints] == [0, 10, 20, 30, 40]
        assert len(kept.observations) == 5


async def test_where_nobody_knows_what_became_of_a_run_all_its_rows_say_so():
    store = ScriptedStore()
    async with running_engine(store) as engine:
        await engine.submit(A, create_load())
        store.fail_commits = 1000
        outcomes = await engine.step_rows([A] * 6, rows(6), range(6), 4)
        assert [told(outcomes, place) for place in range(6)] == (
            [StoreUnavailableError] * 4 + [SkippedError] * 2
        )


async def test_rows_past_their_deadline_are_answered_and_the_bulk_ends():
    store = ScriptedStore()
    async with running_engine(store) as engine:
        await engine.submit(A, create_load())
    store.hold_commits()
    async with running_engine(store, EngineLimits(request_timeout_s=0.05)) as engine:
        outcomes = await engine.step_rows([A] * 6, rows(6), range(6), 4)
        assert [told(outcomes, place) for place in range(6)] == (
            [DeadlineError] * 4 + [SkippedError] * 2
        )
        store.commit_gate.set()


async def test_a_client_that_leaves_takes_what_has_not_begun_with_it(monkeypatch):
    async with running_engine() as engine, held_graphs(monkeypatch) as held:
        await engine.submit(A, create_load())
        held.hold()
        answer = engine.step_rows([A] * 100, rows(100), range(100), 10)
        await held.has_entered()
        answer.cancel()
        held.let_go()
        await engine.submit(A, step_rows(rows(1)))
        assert (await engine.read(A)).step <= 11


async def test_a_close_answers_every_row(monkeypatch):
    store = ScriptedStore()
    async with running_engine(store) as engine:
        await engine.submit(A, create_load())
        await engine.submit(KEYS[1], create_load())
        store.hold_commits()
        keys = [A] * 6 + [KEYS[1]]
        answer = asyncio.ensure_future(engine.step_rows(keys, rows(7), [None] * 7, 4))
        await store.commit_asked.wait()
        closing = asyncio.ensure_future(engine.close(grace_s=0.01))
        outcomes = await answer
        assert outcomes.errors.keys() == set(range(7))
        store.commit_gate.set()
        await closing


async def test_rows_of_a_session_that_does_not_exist_fail_alone():
    store = MemoryStore()
    async with running_engine(store) as engine:
        await engine.submit(A, create_load())
        keys = [NOBODY, A, NOBODY, A]
        outcomes = await engine.step_rows(keys, rows(4), [None] * 4)
        assert [told(outcomes, place) for place in range(4)] == (
            [SessionNotFoundError, 1, SkippedError, 2]
        )


async def test_the_rows_before_one_that_is_not_finite_are_applied():
    async with running_engine(registry=spoilt_models()) as engine:
        await engine.submit(A, create_load())
        values = rows(100)
        values[37] = HUGE
        outcomes = await engine.step_rows([A] * 100, values, range(100))
        expected = [*range(1, 38), NotFiniteError, *[SkippedError] * 62]
        assert [told(outcomes, place) for place in range(100)] == expected
        assert (await engine.read(A)).step == 37
