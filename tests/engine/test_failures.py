"""Whatever fails, every client gets an answer, and what can go on goes on."""

import asyncio

import pytest

from service.engine import engine as engine_module
from service.engine.dispatch import group_commit as committer
from service.engine.dispatch import session_queues as queues
from service.engine.session.requests import DeleteRequest, Observations
from service.errors import (
    DrainingError,
    ModelFailedError,
    QueueFullError,
    RecordUnreadableError,
    StoreUnavailableError,
)
from service.stores.memory import MemoryStore
from service.stores.record.record import Key, pack_data
from tests.engine.fakes import settle
from tests.engine.support import (
    A,
    ScriptedStore,
    Witness,
    create_load,
    create_mood,
    held_graphs,
    rows,
    running_engine,
    step_rows,
    step_text,
)

B = Key("t", "b")
AT_MOST_S = 5.0
NOW = 1000.0


async def test_a_store_that_reads_with_an_error_of_its_own_is_503_and_the_lane_goes_on():
    store = ScriptedStore()
    async with running_engine(store) as engine, asyncio.timeout(AT_MOST_S):
        store.load_error = KeyError("column")
        waiting = [engine.submit(A, create_load()) for _ in range(2)]
        failed, opened = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(failed, StoreUnavailableError)
        assert "KeyError" in failed.detail
        assert (failed.retry_after_s, opened.is_new) == (1, True)


async def test_a_store_that_writes_with_an_error_of_its_own_is_503_and_the_next_step_works():
    store = ScriptedStore()
    async with running_engine(store) as engine, asyncio.timeout(AT_MOST_S):
        await engine.submit(A, create_load())
        store.commit_error = ValueError("driver")
        with pytest.raises(StoreUnavailableError, match=r"ValueError.*not known"):
            await engine.submit(A, step_rows(rows(1), 0))
        assert (await engine.submit(A, step_rows(rows(1), 0))).step == 1
        assert engine.failure is None


async def test_more_writes_than_one_group_takes_are_all_answered(monkeypatch):
    monkeypatch.setattr(committer, "_MAX_GROUP", 3)
    witness = Witness()
    async with running_engine(observer=witness) as engine, asyncio.timeout(AT_MOST_S):
        keys = [Key("t", str(place)) for place in range(10)]
        replies = await asyncio.gather(*(engine.submit(key, create_load()) for key in keys))
        assert [reply.record.key for reply in replies] == keys
        assert max(witness.group_rows) == 3
        assert sum(witness.group_rows) == 10


async def test_a_request_whose_client_left_while_it_waited_is_not_applied():
    store = ScriptedStore()
    async with running_engine(store) as engine, asyncio.timeout(AT_MOST_S):
        await engine.submit(A, create_load())
        store.hold_commits()
        first = engine.submit(A, step_rows(rows(1), 0))
        await store.commit_asked.wait()
        unwanted = engine.submit(A, DeleteRequest())
        behind = engine.submit(A, step_rows(rows(1), 1))
        await asyncio.sleep(0)
        unwanted.cancel()
        store.commit_gate.set()
        assert (await first).step == 1
        assert (await behind).step == 2
        assert (await engine.read(A)).closed == ""


async def test_a_defect_answers_every_client_at_once(monkeypatch):
    """One model's worker breaks while another's graph runs: all who wait are told, of both."""
    async with running_engine() as engine, held_graphs(monkeypatch) as held:
        await engine.submit(A, create_load())
        await engine.submit(B, create_mood())
        load, mood = engine.registry.get("load"), engine.registry.get("mood")
        held.hold(mood)
        asked = [engine.submit(B, step_text("a", 0))]
        await held.has_entered()

        def explode(*_):
            raise RuntimeError("defect")

        monkeypatch.setattr(engine.workers.of(load), "_begin", explode)
        text, values = Observations(text="a"), Observations(rows=rows(2))
        waiting = (
            asyncio.create_task(engine.predict(mood, [(text, None)])),
            asyncio.create_task(engine.predict(load, [(values, 0)])),
            engine.submit(B, step_text("b", 1)),
            engine.submit(A, step_rows(rows(1), 0)),
            engine.submit(A, step_rows(rows(1), 1)),
            engine.submit_many([(A, step_rows(rows(1), 2)), (B, step_text("c", 2))]),
        )
        *answers, many = await asyncio.gather(*asked, *waiting, return_exceptions=True)
        answers += many.errors.values()
        assert [type(answer) for answer in answers] == [ModelFailedError] * 8
        assert all("must be restarted" in answer.detail for answer in answers)
        assert isinstance(engine.failure, RuntimeError)
        with pytest.raises(DrainingError):
            await engine.submit(A, step_rows(rows(1), 0))


async def test_a_defect_answers_predictions_whose_batch_is_being_taken_up(monkeypatch):
    async with asyncio.timeout(5), running_engine() as engine:
        model = engine.registry.get("load")

        def explode(*_):
            raise RuntimeError("defect")

        monkeypatch.setattr(engine.workers.of(model), "_apply_jobs", explode)
        with pytest.raises(ModelFailedError, match="must be restarted"):
            await engine.predict(model, [(Observations(rows=rows(2)), 0)])


class SweptStore(MemoryStore):
    """Counts its sweeps; `errors` are raised first, one for each."""

    def __init__(self, clock, errors=()):
        super().__init__(clock)
        self.errors = list(errors)
        self.on_sweep = lambda: None

    async def sweep(self, limit):
        self.on_sweep()
        if self.errors:
            raise self.errors.pop()
        return await super().sweep(limit)


async def test_one_round_of_the_sweeper_takes_all_that_ended_and_tells_what_expired(monkeypatch):
    monkeypatch.setattr(engine_module, "_SWEEP_EVERY_S", 0.001)
    monkeypatch.setattr(engine_module, "_SWEEP_AT_ONCE", 2)
    now, witness = NOW, Witness()
    witness.num_awaited = 5
    store = SweptStore(lambda: now)

    def go_on_far_later():
        monkeypatch.setattr(engine_module, "_SWEEP_EVERY_S", 3600)

    async with running_engine(store, observer=witness) as engine, asyncio.timeout(AT_MOST_S):
        for name in "abcde":
            await engine.submit(Key("t", name), create_load(ttl_s=1))
        await engine.submit(Key("t", "c"), DeleteRequest())
        await engine.submit(Key("t", "z"), create_load(ttl_s=9000))
        store.on_sweep = go_on_far_later
        now += 1000
        await witness.ended_as_awaited.wait()
        assert sorted(witness.ended) == ["deleted"] + ["expired"] * 4
        assert [r.header.name for r in await engine.store.list_live("t", None, "", 9)] == ["z"]
        assert await store.load(Key("t", "e")) is None
        assert list(engine._queues._queues) == [Key("t", "z")]


async def test_others_have_their_turn_between_two_rounds_of_the_sweeper(monkeypatch):
    monkeypatch.setattr(engine_module, "_SWEEP_EVERY_S", 0.001)
    monkeypatch.setattr(engine_module, "_SWEEP_AT_ONCE", 2)
    now, witness, order = NOW, Witness(), []
    witness.num_awaited = 4
    store = SweptStore(lambda: now)
    async with running_engine(store, observer=witness) as engine, asyncio.timeout(AT_MOST_S):
        for name in "abcd":
            await engine.submit(Key("t", name), create_load(ttl_s=1))

        def on_sweep():
            order.append("sweep")
            asyncio.get_running_loop().call_soon(order.append, "other")

        store.on_sweep = on_sweep
        now += 1000
        await witness.ended_as_awaited.wait()
    assert order[:4] == ["sweep", "other"] * 2


async def test_the_sweeper_outlives_a_store_that_fails(monkeypatch):
    monkeypatch.setattr(engine_module, "_SWEEP_EVERY_S", 0.001)
    now, witness = NOW, Witness()
    witness.num_awaited = 1
    store = SweptStore(lambda: now, [KeyError("column"), StoreUnavailableError("away")])
    async with running_engine(store, observer=witness) as engine, asyncio.timeout(AT_MOST_S):
        await engine.submit(A, create_load(ttl_s=1))
        now += 1000
        await witness.ended_as_awaited.wait()
        assert store.errors == []
        assert engine.failure is None


async def test_a_batch_in_the_graph_when_the_engine_fails_is_answered_once(monkeypatch):
    store = ScriptedStore()
    async with running_engine(store) as engine, held_graphs(monkeypatch) as held:
        await engine.submit(A, create_mood())
        await engine.submit(B, create_load())
        load, mood = engine.registry.get("load"), engine.registry.get("mood")
        held.hold(mood)
        asked = engine.submit(A, step_text("a", 0))
        await held.has_entered()
        monkeypatch.setattr(engine.workers.of(load), "_apply", zero)
        for each in (engine.submit(B, step_rows(rows(1), 0)), asked):
            with pytest.raises(ModelFailedError):
                await each
        held.let_go()
        await held.has_left()
        await settle()
        assert (await store.load(A)).step == 0
        assert isinstance(engine.failure, ZeroDivisionError)


def zero(*_):
    return 1 / 0


async def test_a_refused_request_leaves_nothing_behind(monkeypatch):
    async with running_engine() as engine:
        await engine.submit(A, create_load())
        monkeypatch.setattr(queues, "_MAX_WAITING_TURNS", 2)
        asked = [engine.submit(A, step_rows(rows(1), step)) for step in range(2)]
        before = engine._queues.tasks()
        with pytest.raises(QueueFullError):
            await engine.submit(A, step_rows(rows(1), 2))
        assert len(before) == 2
        assert [(await each).step for each in asked] == [1, 2]
        assert engine._queues.tasks() == []


async def test_a_state_of_a_wrong_size_fails_its_own_request_alone():
    store = MemoryStore()
    async with running_engine(store) as engine:
        await asyncio.gather(engine.submit(A, create_load()), engine.submit(B, create_load()))
    whole = await store.load(A)
    cut = pack_data(0, whole.state[:-1], whole.cursor, b"", 0, 60.0, 0.0)
    await store.commit([(whole.header, cut, whole)])
    async with running_engine(store) as engine, asyncio.timeout(AT_MOST_S):
        failed, stepped = await asyncio.gather(
            *(engine.submit(key, step_rows(rows(1), 0)) for key in (A, B)), return_exceptions=True
        )
    assert isinstance(failed, RecordUnreadableError)
    assert stepped.step == 1
