"""Models come and go while sessions are stepped: nothing that was begun is lost, nothing stays."""

import asyncio
import gc
import threading
import weakref
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from service.contract.bundle import read_bundle
from service.engine.limits import EngineLimits
from service.engine.models.registry import Registry, load_model
from service.engine.observer import NullObserver
from service.engine.session.requests import ForkRequest, Observations, UpgradeRequest
from service.errors import ModelNotFoundError, VersionGoneError
from service.stores.memory import MemoryStore
from service.stores.record.record import Key
from tests.engine.support import (
    A,
    ScriptedStore,
    create_load,
    held_graphs,
    rows,
    running_engine,
    step_rows,
)
from tests.fakes.bundles import write_forecaster

B = Key("t", "b")
LONG_S = 3600.0


@cache
def folder():
    path = Path(mkdtemp(prefix="carry-models-"))
    write_forecaster(path)
    write_forecaster(path, version="2", seed=2)
    write_forecaster(path / "changed", seed=3)
    return path


def load(version="1", of=""):
    return load_model(read_bundle(folder() / of / "load" / version))


class Loaded(NullObserver):
    """Says when a model is loaded no more."""

    def __init__(self):
        self.models = set()
        self._changed = asyncio.Event()

    def models_changed(self, loaded, num_refused):
        self.models = {f"{name}/{version}" for name, version, _ in loaded}
        self._changed.set()

    async def lacks(self, where):
        async with asyncio.timeout(5):
            while where in self.models:
                self._changed.clear()
                await self._changed.wait()


async def let_leave(engine, model):
    """Unload without grace, up to where nothing begins with the model any more."""
    engine.workers.retire(model, 0.0)
    while model not in engine.registry.leaving:  # noqa: ASYNC110 -- there is no event to wait for
        await asyncio.sleep(0)
    await asyncio.sleep(0)  # session queues forget the worker in a task


async def are_gone(*references):
    """Return when nobody holds them: the thread that closed a worker may for a moment."""
    gc.disable()  # it must not be needed
    try:
        async with asyncio.timeout(5):
            while any(each() is not None for each in references):  # noqa: ASYNC110 -- no event
                await asyncio.sleep(0.001)
    finally:
        gc.enable()


def threads():
    return sum(thread.name.startswith("load-") for thread in threading.enumerate())


async def test_a_retiring_model_is_stepped_and_begins_nothing():
    one, two = load("1"), load("2")
    async with running_engine(registry=Registry([one, two], {}, "cpu")) as engine:
        await engine.submit(A, replace(create_load(), version="2"))
        engine.workers.retire(two, LONG_S)
        assert engine.registry.get("load") is one
        for request in (replace(create_load(), version="2"), UpgradeRequest("2", "carry")):
            with pytest.raises(ModelNotFoundError):
                await engine.submit(B if request.operation is None else A, request)
        reply = await engine.submit(A, step_rows(rows(2), 0))
        assert (reply.step, reply.record.header.version) == (2, "2")
        assert (await engine.model_of(A)) is two
        [answer] = await engine.predict(two, [(Observations(rows=rows(1)), 0)])
        assert answer
        back = await engine.submit(A, UpgradeRequest("1", "carry", force=True))
        assert back.record.header.version == "1"


async def test_after_its_grace_a_session_is_refused_and_goes_on_when_it_is_loaded_again():
    observer = Loaded()
    async with running_engine(registry=Registry([load()], {}, "cpu"), observer=observer) as engine:
        await engine.submit(A, create_load())
        await engine.submit(A, step_rows(rows(2), 0))
        engine.workers.retire(engine.registry.get("load"), 0.0)
        await observer.lacks("load/1")
        for _ in range(2):
            with pytest.raises(VersionGoneError, match=r"loaded: \[\]"):
                await engine.submit(A, step_rows(rows(1), 2))
        with pytest.raises(ModelNotFoundError):
            await engine.submit(B, create_load())
        assert (await engine.read(A)).step == 2
        engine.workers.serve(load(), LONG_S)
        assert (await engine.submit(A, step_rows(rows(1), 2))).step == 3
        assert observer.models == {"load/1"}


@pytest.mark.parametrize("served", ["nothing", "other weights"])
async def test_a_retiring_model_gets_no_fork_of_its_sessions(served):
    model, fork = load(), ForkRequest(A)
    async with running_engine(registry=Registry([model], {}, "cpu")) as engine:
        await engine.submit(A, create_load())
        await engine.submit(B, fork)
        if served == "nothing":
            engine.workers.retire(model, LONG_S)
        else:
            engine.workers.serve(load(of="changed"), LONG_S)
        with pytest.raises(ModelNotFoundError, match="accepts no new sessions"):
            await engine.submit(Key("t", "c"), fork)
        assert (await engine.submit(B, fork)).is_replay
        for key in (A, B):
            assert (await engine.submit(key, step_rows(rows(1), 0))).step == 1


async def test_what_is_under_way_when_the_grace_ends_is_answered(monkeypatch):
    observer = Loaded()
    registry = Registry([load()], {}, "cpu")
    async with (
        running_engine(registry=registry, observer=observer) as engine,
        held_graphs(monkeypatch) as held,
    ):
        await engine.submit(A, create_load())
        await engine.submit(B, create_load())
        model = engine.registry.get("load")
        held.hold()
        stepped = engine.submit(A, step_rows(rows(1), 0))
        await held.has_entered()
        queued = asyncio.ensure_future(engine.predict(model, [(Observations(rows=rows(100)), 0)]))
        await asyncio.sleep(0)
        await let_leave(engine, model)
        with pytest.raises(VersionGoneError):
            await engine.submit(B, step_rows(rows(1), 0))
        with pytest.raises(ModelNotFoundError, match="was unloaded"):
            await engine.predict(model, [(Observations(rows=rows(1)), 0)])
        held.let_go()
        reply = await stepped
        assert reply.step == 1
        assert engine.registry.get_for_reply(reply.record.header) is model
        assert len(await queued) == 1
        await observer.lacks("load/1")


async def test_a_commit_that_takes_long_is_waited_for():
    store, observer = ScriptedStore(), Loaded()
    registry = Registry([load()], {}, "cpu")
    async with running_engine(store, registry=registry, observer=observer) as engine:
        await engine.submit(A, create_load())
        model = weakref.ref(engine.registry.get("load"))
        store.hold_commits()
        stepped = engine.submit(A, step_rows(rows(1), 0))
        await store.commit_asked.wait()
        await let_leave(engine, model())
        store.commit_gate.set()
        reply = await stepped
        assert engine.registry.get_for_reply(reply.record.header) is model()
        del reply, stepped  # a reply names its model
        await observer.lacks("load/1")
        await are_gone(model)


async def test_nothing_is_left_of_a_model_that_is_gone():
    observer, before = Loaded(), threads()
    async with running_engine(registry=Registry([load()], {}, "cpu"), observer=observer) as engine:
        await engine.submit(A, create_load())
        for step in range(3):  # as a turn, then with others
            await engine.submit(A, step_rows(rows(1), step))
        await engine.step_rows([A], rows(1), [3])
        model = weakref.ref(engine.registry.get("load"))
        graph = weakref.ref(model().runner._ort_session)
        worker = weakref.ref(engine.workers.of(model()))
        assert threads() == before + 1
        engine.workers.retire(model(), 0.0)
        await observer.lacks("load/1")
        await are_gone(model, graph, worker)
        assert threads() == before


async def test_whoever_holds_a_model_does_not_keep_its_graph():
    observer, model = Loaded(), load()
    graph = weakref.ref(model.runner._ort_session)
    registry = Registry([model], {}, "cpu")
    async with running_engine(registry=registry, observer=observer) as engine:
        engine.workers.retire(model, 0.0)
        await observer.lacks("load/1")
        assert graph() is None


async def test_a_retiring_model_that_is_served_again_was_never_away():
    model = load()
    async with running_engine(registry=Registry([model], {}, "cpu")) as engine:
        worker = engine.workers.of(model)
        await engine.submit(A, create_load())
        engine.workers.retire(model, LONG_S)
        engine.workers.serve(model, LONG_S)
        assert engine.workers.of(engine.registry.get("load")) is worker
        assert not engine.workers._grace_ends
        assert (await engine.submit(A, step_rows(rows(1), 0))).step == 1
        assert (await engine.submit(B, create_load())).is_new


async def test_a_new_version_is_the_default_and_old_sessions_stay_with_theirs():
    async with running_engine(registry=Registry([load()], {}, "cpu")) as engine:
        await engine.submit(A, create_load())
        engine.workers.serve(load("2"), LONG_S)
        await engine.submit(B, create_load())
        for key, version in ((A, "1"), (B, "2")):
            reply = await engine.submit(key, step_rows(rows(1), 0))
            assert reply.record.header.version == version


async def test_other_weights_under_the_same_number_leave_sessions_their_own_until_the_grace_ends():
    observer = Loaded()
    old = load()
    async with running_engine(registry=Registry([old], {}, "cpu"), observer=observer) as engine:
        await engine.submit(A, create_load())
        new = load(of="changed")
        engine.workers.serve(new, LONG_S)
        await engine.submit(B, create_load())
        assert (await engine.model_of(A), await engine.model_of(B)) == (old, new)
        assert (await engine.submit(A, step_rows(rows(1), 0))).step == 1
        assert (await engine.submit(B, step_rows(rows(1), 0))).step == 1
        engine.workers._grace_ends[old].cancel()
        engine.workers._end_grace(old)  # as if the hour were over
        await asyncio.sleep(0)
        with pytest.raises(VersionGoneError, match="with other weights"):
            await engine.submit(A, step_rows(rows(1), 1))
        assert (await engine.submit(B, step_rows(rows(1), 1))).step == 2
        assert observer.models == {"load/1"}


@pytest.mark.parametrize("grace_s", [0.0, LONG_S])
async def test_an_engine_that_closes_lets_go_of_models_that_were_being_unloaded(grace_s):
    before, store = threads(), MemoryStore()
    limits = EngineLimits(request_timeout_s=60)
    registry = Registry([load("1"), load("2")], {}, "cpu")
    async with running_engine(store, limits, registry) as engine:
        two = engine.registry.get("load", "2")
        if grace_s:
            engine.workers.retire(two, grace_s)
        else:
            await let_leave(engine, two)
    assert threads() == before


async def test_a_hundred_thousand_lanes_let_go_of_a_worker_and_others_go_on():
    async with running_engine(registry=Registry([load()], {}, "cpu")) as engine:
        worker = engine.workers.of(engine.registry.get("load"))
        queues = [engine._queues.queue_of(Key("t", str(number))) for number in range(20_001)]
        for queue in queues:
            queue.worker, queue.is_plain = worker, True
        forgetting = asyncio.create_task(engine._queues.forget_worker(worker))
        await asyncio.sleep(0)
        assert 0 < sum(queue.worker is None for queue in queues) < len(queues)
        await forgetting
        assert not any(queue.worker or queue.is_plain for queue in queues)
