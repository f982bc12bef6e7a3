"""Engines over the small bundles, and stores that misbehave on request."""

import asyncio
import time
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from service.engine.engine import Engine
from service.engine.events import NullObserver
from service.engine.registry import Registry, load_registry
from service.engine.requests import CreateRequest, Observations, StepRequest
from service.errors import StoreUnavailableError
from service.stores.memory import MemoryStore
from service.stores.record import Key
from tests.fakes.bundles import write_classifier, write_forecaster

A = Key("t", "a")


@cache
def small_models() -> Registry:
    """Loaded once for all tests: models are stateless and shared freely."""
    folder = Path(mkdtemp(prefix="carry-models-"))
    write_forecaster(folder)
    write_classifier(folder)
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
    model = small_models().get(reply.record.opening.model)
    return model.runner.outputs.unpack(reply.outputs)
