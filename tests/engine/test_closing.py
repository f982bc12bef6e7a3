"""A close answers everybody, wherever their work is, and leaves nothing running."""

import asyncio

import pytest

from service.engine.dispatch import bulk
from service.engine.session.requests import Observations
from service.errors import CarryError, DeadlineError, DrainingError
from service.stores.record.record import Key
from service.stores.sqlite.store import SqliteStore
from tests.engine.fakes import settle
from tests.engine.support import (
    A,
    ScriptedStore,
    create_load,
    held_graphs,
    rows,
    running_engine,
    step_rows,
)

AT_MOST_S = 3.0


async def opened(engine, num_sessions):
    keys = [Key("t", str(place)) for place in range(num_sessions)]
    await asyncio.gather(*(engine.submit(key, create_load()) for key in keys))
    return keys


async def answers(asked):
    """What each came to, an error or not; nobody is left waiting."""
    async with asyncio.timeout(AT_MOST_S):
        return await asyncio.gather(*asked, return_exceptions=True)


async def test_a_close_out_of_patience_answers_who_still_waits():
    store = ScriptedStore()
    async with running_engine(store) as engine, asyncio.timeout(AT_MOST_S):
        await engine.submit(A, create_load())
        store.hold_commits()
        waiting = [engine.submit(A, step_rows(rows(1), step)) for step in range(2)]
        await store.commit_asked.wait()
        await engine.close(grace_s=0)
        for future in waiting:
            with pytest.raises(DrainingError, match="not known") as caught:
                await future
            assert caught.value.retry_after_s == 1


async def test_a_close_answers_those_in_the_graph_and_those_behind_them(monkeypatch):
    store = ScriptedStore()
    async with running_engine(store) as engine, held_graphs(monkeypatch) as held:
        keys = await opened(engine, 200)
        held.hold()
        asked = [engine.submit(keys[0], step_rows(rows(1), 0))]
        await held.has_entered()
        asked += [engine.submit(key, step_rows(rows(1), step)) for step in (0, 1) for key in keys]
        model = engine.registry.get("load")
        asked.append(asyncio.create_task(engine.predict(model, [(Observations(rows=rows(3)), 0)])))
        await settle()
        closing = asyncio.create_task(engine.close(grace_s=0.01))
        asked[0].add_done_callback(lambda _: held.let_go())  # a close waits for the thread
        outcomes = await answers(asked)
        assert [type(outcome) for outcome in outcomes] == [DrainingError] * len(asked)
        await closing
        await settle()
        assert {(await store.load(key)).step for key in keys} == {0}


async def test_a_close_answers_those_whose_session_is_being_read(monkeypatch):
    store, go_on = ScriptedStore(), asyncio.Event()

    async def hang(_):
        await go_on.wait()

    async with running_engine(store) as engine:
        monkeypatch.setattr(store, "load", hang)
        asked = [engine.submit(A, create_load()), engine.submit(A, step_rows(rows(1), 0))]
        await settle()
        await engine.close(grace_s=0)
        assert [type(each) for each in await answers(asked)] == [DrainingError] * 2
        go_on.set()
        await settle()
        assert engine.failure is None


async def test_a_close_with_patience_finishes_all_that_was_accepted(monkeypatch):
    store = ScriptedStore()
    async with running_engine(store) as engine, held_graphs(monkeypatch) as held:
        keys = await opened(engine, 100)
        held.hold()
        asked = [engine.submit(key, step_rows(rows(1), step)) for step in range(3) for key in keys]
        await held.has_entered()
        closing = asyncio.create_task(engine.close(grace_s=AT_MOST_S))
        await settle()
        held.let_go()
        outcomes = await answers(asked)
        assert [reply.step for reply in outcomes] == [1] * 100 + [2] * 100 + [3] * 100
        await closing
        assert {(await store.load(key)).step for key in keys} == {3}


@pytest.mark.parametrize("grace_s", [0, 0.05])
@pytest.mark.parametrize("how", ["submit_many", "step_rows"])
async def test_a_close_answers_a_bulk_of_which_a_part_has_not_begun(monkeypatch, grace_s, how):
    monkeypatch.setattr(bulk, "_WINDOW", 8)
    store = ScriptedStore()
    async with running_engine(store) as engine:
        keys = await opened(engine, 30)
        store.hold_commits()
        if how == "submit_many":
            many = engine.submit_many([(key, step_rows(rows(1), 0)) for key in keys])
        else:
            many = engine.step_rows(keys, rows(30), [0] * 30)
        await store.commit_asked.wait()
        await engine.close(grace_s=grace_s)
        [outcomes] = await answers([many])
        assert sorted(outcomes.errors) == list(range(30))
        assert all(isinstance(error, CarryError) for error in outcomes.errors.values())
        store.commit_gate.set()
        await settle()


@pytest.mark.parametrize("how", ["submit_many", "step_rows"])
async def test_requests_of_a_bulk_that_were_told_are_not_told_again_by_their_commit(
    monkeypatch, how
):
    """Nor counted again: or the others would be left without an outcome."""
    monkeypatch.setattr(bulk, "_WINDOW", 8)
    store = ScriptedStore()
    async with running_engine(store) as engine:
        keys = await opened(engine, 30)
        await answers([engine.submit(key, step_rows(rows(1), 0)) for key in keys])
        store.hold_commits()
        if how == "submit_many":
            many = engine.submit_many([(key, step_rows(rows(1), 1)) for key in keys])
        else:
            many = engine.step_rows(keys, rows(30), [1] * 30)
        await store.commit_asked.wait()
        for task in engine._queues.tasks():  # as happens when a deadline passes
            task.end(DeadlineError("too late"))
        store.commit_gate.set()
        [outcomes] = await answers([many])
        told = [place in outcomes.errors for place in range(30)]
        assert told == [True] * 8 + [False] * 22
        assert outcomes.steps == [-1] * 8 + [2] * 22


async def test_a_store_may_be_closed_behind_an_engine_that_gave_up(tmp_path, monkeypatch):
    """Commits that nobody waits for any more end by themselves, or with the store."""
    store = SqliteStore.open(tmp_path / "s.db", "power")
    async with running_engine(store) as engine:
        keys = await opened(engine, 20)
        asked = [engine.submit(key, step_rows(rows(1), step)) for step in range(5) for key in keys]
        await settle()
        await engine.close(grace_s=0)
        outcomes = await answers(asked)
        await store.close()
    again = SqliteStore.open(tmp_path / "s.db", "power")
    for place, key in enumerate(keys):
        told = [reply.step for reply in outcomes[place::20] if not isinstance(reply, CarryError)]
        assert (await again.load(key)).step >= max(told, default=0)
    await again.close()
