"""A session that keeps checkpoints can go back to one, and continues from there as before."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.session import retention as keeping
from service.engine.session.requests import DeleteRequest, RewindRequest
from service.errors import (
    CheckpointGoneError,
    ReplayExpiredError,
    SessionClosedError,
    SessionNotFoundError,
)
from service.stores.memory import MemoryStore
from service.stores.record.history import HistoryPolicy
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


def kept_steps(record):
    return [checkpoint.step for checkpoint in record.history.checkpoints]


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(1, 4),
    st.data(),
)
def test_the_same_steps_after_a_rewind_get_the_same_replies(counts, checkpoints, every, data):
    values = rows(sum(counts))

    async def check():
        async with running_engine() as engine:
            await engine.submit(
                A, create_load(keeps=HistoryPolicy(checkpoints, every), ring_size=9)
            )
            requests, replies, step = {}, {}, 0
            for count in counts:
                requests[step] = step_rows(values[step : step + count], step)
                replies[step] = await engine.submit(A, requests[step])
                step += count
            before = await engine.read(A)
            kept = kept_steps(before)
            assert 1 <= len(kept) <= checkpoints
            assert all(later - each >= every for each, later in pairwise(kept))
            back_to = data.draw(st.sampled_from(kept))
            assert (await engine.submit(A, RewindRequest(back_to))).step == back_to
            assert kept_steps(await engine.read(A)) == [each for each in kept if each < back_to]
            for at in [each for each in requests if each >= back_to]:
                again = await engine.submit(A, requests[at])
                assert not again.is_replay
                assert again.outputs == replies[at].outputs
            after = await engine.read(A)
            assert (after.step, after.state) == (before.step, before.state)

    asyncio.run(check())


async def test_a_text_goes_back_into_the_middle_of_a_word():
    async with running_engine() as engine:
        await engine.submit(A, create_mood(keeps=HistoryPolicy(checkpoints=3)))
        await engine.submit(A, step_text("a wonder", 0))
        first = await engine.submit(A, step_text("ful film", 1))
        await engine.submit(A, step_text(", not", 2))
        await engine.submit(A, RewindRequest(1))
        assert (await engine.submit(A, step_text("ful film", 1))).outputs == first.outputs


async def test_a_step_that_is_not_kept_names_those_that_are():
    async with running_engine() as engine:
        await engine.submit(A, create_load(keeps=HistoryPolicy(checkpoints=2)))
        for step in range(4):
            await engine.submit(A, step_rows(rows(1), step))
        for step in (0, 1, 9):
            with pytest.raises(CheckpointGoneError, match=r"expected one of \[2, 3\]") as caught:
                await engine.submit(A, RewindRequest(step))
            assert caught.value.members == {"expected_step": 4, "kept_steps": [2, 3]}


async def test_a_session_that_keeps_nothing_says_so():
    async with running_engine() as engine:
        await engine.submit(A, create_load(rows(2)))
        with pytest.raises(CheckpointGoneError, match="keeps 0 checkpoints"):
            await engine.submit(A, RewindRequest(1))


async def test_going_back_to_where_it_stands_changes_nothing():
    """As a retry of a rewind does."""
    async with running_engine() as engine:
        await engine.submit(A, create_load(rows(2)))
        before = await engine.read(A)
        assert (await engine.submit(A, RewindRequest(2))).step == 2
        assert await engine.read(A) == before


async def test_a_rewind_clears_the_ring_and_what_was_observed_after_it():
    async with running_engine() as engine:
        await engine.submit(A, create_load(keeps=HistoryPolicy(9, 1, 3), ring_size=9))
        for step in range(4):
            await engine.submit(A, step_rows(rows(1, seed=step), step, key=b"k" * 16))
        before = await engine.read(A)
        await engine.submit(A, RewindRequest(2))
        record = await engine.read(A)
        assert (record.kept_replies, record.history.keys) == ((), ())
        assert record.history.observations == before.history.observations[:1]
        with pytest.raises(ReplayExpiredError):
            await engine.submit(A, step_rows(rows(1, seed=1), 1))


async def test_kept_states_are_bounded_by_bytes(monkeypatch):
    async with running_engine() as engine:
        await engine.submit(A, create_load(keeps=HistoryPolicy(checkpoints=9)))
        state_bytes = (await engine.read(A)).state_bytes
        monkeypatch.setattr(keeping, "MAX_CHECKPOINT_BYTES", 2 * state_bytes + 1)
        for step in range(5):
            await engine.submit(A, step_rows(rows(1), step))
        assert kept_steps(await engine.read(A)) == [3, 4]


async def test_kept_observations_are_the_last_and_bounded_by_bytes(monkeypatch):
    async with running_engine() as engine:
        await engine.submit(A, create_load(rows(2), keeps=HistoryPolicy(observations=4)))
        await engine.submit(A, step_rows(rows(3, seed=1), 2))
        kept = (await engine.read(A)).history.observations
        assert len(kept) == 4
        assert kept[0][1:] == rows(2)[1].tobytes()
        assert b"".join(each[1:] for each in kept[1:]) == rows(3, seed=1).tobytes()
        monkeypatch.setattr(keeping, "MAX_OBSERVATION_BYTES", 3 * len(kept[0]) - 1)
        await engine.submit(A, step_rows(rows(1, seed=2), 5))
        assert len((await engine.read(A)).history.observations) == 2


async def test_a_stale_replica_does_not_step_what_was_rewound():
    store = MemoryStore()
    async with running_engine(store) as engine, running_engine(store) as rival:
        await engine.submit(A, create_load(keeps=HistoryPolicy(checkpoints=3)))
        first = await engine.submit(A, step_rows(rows(1), 0))
        await rival.submit(A, RewindRequest(0))
        assert (await rival.submit(A, step_rows(rows(1, seed=5), 0))).step == 1
        ours = await engine.submit(A, step_rows(rows(1, seed=6), 1))
        assert ours.outputs != first.outputs
        assert (await rival.read(A)).state == ours.record.state


async def test_a_rewind_that_lost_a_race_is_decided_again():
    store = ScriptedStore()
    async with running_engine(store) as engine, running_engine(store) as rival:
        await engine.submit(A, create_load(keeps=HistoryPolicy(checkpoints=1)))
        await engine.submit(A, step_rows(rows(1), 0))
        store.before_commit = lambda _: rival.submit(A, step_rows(rows(1), 1))
        with pytest.raises(CheckpointGoneError, match=r"\[1\]"):
            await engine.submit(A, RewindRequest(0))
        assert (await engine.read(A)).step == 2


async def test_what_cannot_be_stepped_cannot_be_rewound():
    async with running_engine() as engine:
        with pytest.raises(SessionNotFoundError):
            await engine.submit(A, RewindRequest(0))
        await engine.submit(A, create_load(keeps=HistoryPolicy(checkpoints=1)))
        await engine.submit(A, step_rows(rows(1), 0))
        await engine.submit(A, DeleteRequest())
        with pytest.raises(SessionClosedError):
            await engine.submit(A, RewindRequest(0))
        assert (await engine.store.load(A)).history.checkpoints == ()


async def test_many_sessions_that_keep_states_are_stepped_at_once():
    """They never go the way of plain ones, which keep nothing."""
    async with running_engine() as engine:
        keys = [Key("t", str(place)) for place in range(20)]
        header = create_load(keeps=HistoryPolicy(checkpoints=2))
        await asyncio.gather(*(engine.submit(key, header) for key in keys))
        for step in range(3):
            await asyncio.gather(*(engine.submit(key, step_rows(rows(1), step)) for key in keys))
        await engine.step_rows(keys, rows(20), [3] * 20)
        assert {tuple(kept_steps(await engine.read(key))) for key in keys} == {(2, 3)}
