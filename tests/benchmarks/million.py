"""A million sessions on one machine: memory, and the latency of steps of sessions taken at random.

    python -m tests.benchmarks.million [--sessions N] [--store memory | "sqlite power" | …]

Sessions are opened in bulk. Then single steps of random sessions come at a fixed rate, open loop,
so that a pause of the server counts for everybody who waited through it.
"""

import argparse
import asyncio
import gc
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import uvloop

from service.engine.engine import Engine
from service.engine.gc_tuning import settle_collector
from service.engine.limits import EngineLimits
from service.engine.session.requests import CreateRequest, Observations, StepRequest
from service.stores.base import StoreOptions
from service.stores.factory import open_store
from service.stores.record.record import Key
from tests.benchmarks.bundle import NAME, F, bench_registry
from tests.benchmarks.engine_load import STORES
from tests.benchmarks.figures import percentile_ms, resident_bytes, write_answer

CACHE_SESSIONS = 100_000
BULK = 20_000


async def measure(store_name: str, num_sessions: int, per_s: int, seconds: float, folder: Path):
    registry = bench_registry(folder)
    url, durability = STORES[store_name]
    store = open_store(url.format(folder=folder, stamp=time.time_ns()), StoreOptions(durability))
    engine = Engine(registry, store, EngineLimits(cache_sessions=CACHE_SESSIONS))
    await engine.start()
    settle_collector()
    before = resident_bytes()
    keys = [Key("t", f"session-{place}") for place in range(num_sessions)]
    row = np.ones((1, F), np.float32)
    started = time.perf_counter()
    for first in range(0, num_sessions, BULK):
        some = keys[first : first + BULK]
        opened = await engine.submit_many(
            [(key, CreateRequest(NAME, None, ttl_s=1e6)) for key in some]
        )
        assert not opened.errors, next(iter(opened.errors.values()))
        stepped = await engine.step_rows(some, np.repeat(row, len(some), 0), [0] * len(some))
        assert not stepped.errors, next(iter(stepped.errors.values()))
    opening_s = time.perf_counter() - started
    gc.collect()
    after_opening = resident_bytes()
    latencies = await _random_steps(engine, keys, per_s, seconds)
    after_steps = resident_bytes()
    model = registry.get(NAME)
    num_keys_bytes = num_sessions * 150  # the benchmark's own list of names
    await engine.close()
    await store.close()
    payload = model.layout.row_bytes + model.runner.outputs.step_bytes
    median, worst = percentile_ms(latencies, 0.5), 1000 * max(latencies)
    p999 = percentile_ms(latencies, 0.999)
    return {
        "sessions": num_sessions,
        "opened_and_stepped_per_s": num_sessions / opening_s,
        "state_and_reply_bytes": payload,
        "resident_bytes_per_session": (after_opening - before - num_keys_bytes) / num_sessions,
        "resident_mib_after_opening": after_opening / 2**20,
        "resident_mib_after_steps": after_steps / 2**20,
        "asked_steps_per_s": per_s,
        "steps": len(latencies),
        "p50_ms": median,
        "p99_ms": percentile_ms(latencies, 0.99),
        "p999_ms": p999,
        "max_ms": worst,
        "p999_by_median": p999 / median,
        "cache_sessions": CACHE_SESSIONS,
    }


async def _random_steps(engine: Engine, keys: list[Key], per_s: int, seconds: float) -> list[float]:
    """Open loop: a step is sent when its time has come, whatever became of those before."""
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(keys), int(per_s * seconds)).tolist()
    observed = Observations(rows=rng.normal(size=(1, F)).astype(np.float32))
    latencies: list[float] = []
    waiting: set[asyncio.Task[None]] = set()
    clock = time.perf_counter

    async def step(key: Key, due: float) -> None:
        since = min(due, clock())  # a little early is no gain, late is a loss
        await engine.submit(key, StepRequest(observed))
        latencies.append(clock() - since)

    started = clock()
    for place, index in enumerate(chosen):
        due = started + place / per_s
        if (early := due - clock()) > 0.001:
            await asyncio.sleep(early)
        elif place % 8 == 0:
            await asyncio.sleep(0)
        task = asyncio.create_task(step(keys[index], due))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    await asyncio.gather(*waiting)
    return latencies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument(
        "--store", nargs="+", choices=list(STORES), default=["memory", "sqlite power"]
    )
    parser.add_argument("--per-s", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, help="where the file of a durable store is made")
    asked = parser.parse_args()
    for store in asked.store:
        # Each in a process of its own: what one leaves behind must not count for the next.
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            assert status == 0, f"{store} failed"
            continue
        with tempfile.TemporaryDirectory(prefix="carry-bench-", dir=asked.folder) as name:
            answer = measure(store, asked.sessions, asked.per_s, asked.seconds, Path(name))
            write_answer(f"million {store}", {store: uvloop.run(answer)})
        os._exit(0)


if __name__ == "__main__":
    main()
