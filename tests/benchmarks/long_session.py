"""Is a step at step 100,000 of a session as cheap as one at step 10? Asked side by side.

python -m tests.benchmarks.long_session
"""

import asyncio
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from service.engine.engine import Engine
from service.engine.models.registry import Registry
from service.engine.session.requests import CreateRequest, DeleteRequest, Observations, StepRequest
from service.stores.base import StoreOptions
from service.stores.factory import open_store
from service.stores.record.record import Key
from tests.benchmarks.bundle import NAME, F, bench_registry
from tests.benchmarks.engine_load import STORES
from tests.benchmarks.figures import write_answer

LONG, SHORT = 100_000, 10
NUM_PAIRS = 4_000


async def measure(registry: Registry, store_name: str, folder: Path) -> dict[str, float]:
    """Medians of single steps of both sessions, taken in turn."""
    url, durability = STORES[store_name]
    store = open_store(url.format(folder=folder, stamp=time.time_ns()), StoreOptions(durability))
    engine = Engine(registry, store)
    await engine.start()
    rows = np.random.default_rng(0).normal(size=(LONG, F)).astype(np.float32)
    old, young = Key("t", "old"), Key("t", "young")
    await engine.submit(old, create(rows))
    costs: dict[str, list[float]] = {"old": [], "young": []}
    one = Observations(rows=rows[:1])
    for place in itertools.count():
        if place % SHORT == 0:  # the young one stays near its tenth step
            if place:
                await engine.submit(young, DeleteRequest())
            await engine.submit(young, create(rows[:SHORT]))
        for key in (old, young) if place % 2 else (young, old):
            started = time.perf_counter()
            await engine.submit(key, StepRequest(one))
            costs[key.name].append(time.perf_counter() - started)
        if place == NUM_PAIRS:
            break
    await engine.close()
    await store.close()
    medians = {name: 1e6 * statistics.median(each) for name, each in costs.items()}
    return {
        "step_100000_us": medians["old"],
        "step_10_us": medians["young"],
        "ratio": medians["old"] / medians["young"],
    }


def create(history: np.ndarray) -> CreateRequest:
    return CreateRequest(NAME, None, ttl_s=1e6, history=Observations(rows=history))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="carry-bench-") as name:
        folder = Path(name)
        registry = bench_registry(folder)
        found = {store: asyncio.run(measure(registry, store, folder)) for store in STORES}
    write_answer("long_session", found)


if __name__ == "__main__":
    main()
