"""Engines over the small bundles, and stores that misbehave on request."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from service.engine.engine import Engine
from service.engine.graph.runner import Batch
from service.engine.inference import worker
from service.engine.models.registry import Registry, load_registry
from service.engine.observer import NullObserver
from service.engine.session.requests import CreateRequest, Observations, StepRequest
from service.errors import StoreUnavailableError
from service.stores.memory import MemoryStore
from service.stores.record.record import Key
from tests.fakes.bundles import (
    write_classifier,
    write_forecaster,
    write_generator,
    write_tagger,
)

A = Key("t", "a")


@cache
def small_models() -> Registry:
    """Loaded once for all tests: models are stateless and shared freely."""
    folder = Path(mkdtemp(prefix="carry-models-"))
    write_forecaster(folder)
    write_classifier(folder)
    write_generator(folder)
    write_tagger(folder)
    return load_registry(folder, "cpu", 1)


@asynccontextmanager
async def running_engine(store=None, limits=None, registry=None, observer=None):
    engine = Engine(registry or small_models(), store or MemoryStore(), limits, observer)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close(grace_s=5)


class ScriptedStore(MemoryStore):
    """A memory store that fails, or lets a rival be first, as told."""

    def __init__(self, clock=time.time):
        super().__init__(clock)
        self.fail_commits = 0
        self.fail_loads = 0
        self.load_error = None
        self.commit_error = None
        self.before_commit = None
        self.commit_gate = asyncio.Event()
        self.commit_gate.set()
        self.commit_asked = asyncio.Event()
        self.num_loads = 0

    def hold_commits(self):
        """Until `commit_gate` is set; `commit_asked` tells when one waits there."""
        self.commit_gate.clear()
        self.commit_asked.clear()

    async def load(self, key):
        self.num_loads += 1
        if self.fail_loads:
            self.fail_loads -= 1
            raise StoreUnavailableError("away", retry_after_s=1)
        if self.load_error:
            error, self.load_error = self.load_error, None
            raise error
        return await super().load(key)

    async def commit(self, writes):
        self.commit_asked.set()
        await self.commit_gate.wait()
        if self.before_commit:
            before, self.before_commit = self.before_commit, None
            await before(self)
        if self.fail_commits:
            self.fail_commits -= 1
            raise StoreUnavailableError("away", retry_after_s=1)
        if self.commit_error:
            error, self.commit_error = self.commit_error, None
            raise error
        return await super().commit(writes)


class HeldGraphs:
    """Every batch runs in its thread, and stays there while it is told to, of one model or all."""

    def __init__(self, run):
        self._run = run
        self._of = None
        self._go_on = threading.Event()
        self._go_on.set()
        self._entered, self._left = threading.Semaphore(0), threading.Semaphore(0)

    def hold(self, model=None):
        self._of = model and model.runner._ort_session
        self._go_on.clear()

    def let_go(self):
        self._go_on.set()

    async def has_entered(self):
        """Return when one more batch is in a graph."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=5)

    async def has_left(self):
        """Return when one more batch is through."""
        assert await asyncio.to_thread(self._left.acquire, timeout=5)

    def run(self, batch):
        if self._of in (None, batch._ort_session) and not self._go_on.is_set():
            self._entered.release()
            assert self._go_on.wait(5)
            self._run(batch)
            self._left.release()
        else:
            self._run(batch)


@asynccontextmanager
async def held_graphs(monkeypatch):
    held = HeldGraphs(Batch.run)
    monkeypatch.setattr(Batch, "run", lambda batch: held.run(batch))
    monkeypatch.setattr(worker, "INLINE_S", 0.0)
    try:
        async with asyncio.timeout(5):
            yield held
    finally:
        held.let_go()


class Witness(NullObserver):
    """Remembers what the engine told it."""

    def __init__(self):
        self.ended = []
        self.batch_rows = []
        self.group_rows = []
        self.ended_as_awaited = asyncio.Event()
        self.num_awaited = 0

    def batch_ran(self, model, version, num_rows, ort_s):
        self.batch_rows.append(num_rows)

    def group_committed(self, num_rows, commit_s):
        self.group_rows.append(num_rows)

    def session_ended(self, model, version, reason):
        self.ended.append(reason)
        if len(self.ended) == self.num_awaited:
            self.ended_as_awaited.set()


def rows(num_rows, seed=0):
    values = np.random.default_rng(seed).normal(size=(num_rows, 2)).astype(np.float32)
    values[::3, 1] = np.nan
    return values


def create_load(history=None, **fields):
    observed = None if history is None else Observations(rows=history)
    return CreateRequest("load", None, **{"ttl_s": 60, "start_s": 0, "history": observed} | fields)


def create_mood(**fields):
    return CreateRequest("mood", None, **{"ttl_s": 60} | fields)


def step_rows(values, step=None, **fields):
    return StepRequest(Observations(rows=values), step, **fields)


def step_text(text, step=None, final=False, **fields):
    return StepRequest(Observations(text=text, final=final), step, **fields)


def outputs_of(reply):
    """A reply's outputs by name, `[n, …]`."""
    model = small_models().get(reply.record.header.model)
    return model.runner.outputs.unpack(reply.outputs)
