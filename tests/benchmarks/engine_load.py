"""The engine in this process, against a bare loop over the same graph."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from service.engine.engine import Engine
from service.engine.gc_tuning import settle_collector
from service.engine.models.loaded_model import LoadedModel
from service.engine.models.registry import Registry
from service.engine.session.requests import CreateRequest, Observations, StepRequest
from service.stores.base import StoreOptions
from service.stores.factory import open_store
from service.stores.record.record import Key
from tests.benchmarks.bundle import NAME, F
from tests.benchmarks.figures import Figure, median_figure, percentile_ms

STORES = {
    "memory": ("memory://", "power"),
    "sqlite process": ("sqlite:///{folder}/process-{stamp}.db", "process"),
    "sqlite power": ("sqlite:///{folder}/power-{stamp}.db", "power"),
}


def measure_raw_loop(model: LoadedModel, num_rows: int, seconds: float) -> Figure:
    """Gather rows from an array, run the graph, scatter them back: what no server can beat."""
    states = np.zeros((num_rows, model.layout.row_bytes // 4), np.float32)
    x = np.random.default_rng(0).normal(size=(num_rows, 1, F)).astype(np.float32)
    rows, length = np.arange(num_rows), np.ones(num_rows, np.int64)
    count, cpu = 0, time.process_time()
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        answers = model.runner.call({"x": x, "length": length, "state": states[rows]})
        states[rows] = answers["state_out"]
        answers["quantiles"][:, -1].copy()
        count += num_rows
    cpu = time.process_time() - cpu
    return Figure(
        "raw ONNX Runtime loop", num_rows, count / elapsed, cpu_us_per_step=1e6 * cpu / count
    )


def measure_bulk(
    registry: Registry, store: str, num_sessions: int, seconds: float, folder: Path, raw: Figure
) -> Figure:
    """Closed loop of two callers, each with a row for every session of its half in one call."""
    settle_collector()
    return asyncio.run(_measure(registry, store, num_sessions, seconds, folder, raw, in_bulk=True))


def measure_engine(
    registry: Registry, store: str, num_sessions: int, seconds: float, folder: Path, raw: Figure
) -> Figure:
    """Closed loop: each session sends its next step when the last one is answered."""
    settle_collector()
    return asyncio.run(_measure(registry, store, num_sessions, seconds, folder, raw))


_PIECES = 10
"""With and without in turns, so that a machine whose speed drifts treats them alike."""


def measure_finite_check(
    registry: Registry, num_sessions: int, seconds: float, folder: Path, raw: Figure
) -> Figure:
    """The engine over the same engine without its look at what is finite.

    By the least processor time of each: a step takes no less, and others on the machine add to it.
    """
    runner = registry.get(NAME).runner
    check = runner._finite_check
    pieces: dict[bool, list[Figure]] = {True: [], False: []}
    try:
        for number in range(2 * _PIECES):
            is_with = number % 4 in (0, 3)
            runner._finite_check = check if is_with else _NoCheck()  # type: ignore[assignment]
            length_s = seconds / _PIECES
            piece = measure_engine(registry, "memory", num_sessions, length_s, folder, raw)
            pieces[is_with].append(piece)
    finally:
        runner._finite_check = check
    with_us, without_us = (
        min(each.cpu_us_per_step or 0.0 for each in pieces[is_with]) for is_with in (True, False)
    )
    return replace(
        median_figure(pieces[True]),
        name="engine, finite check",
        cpu_us_per_step=with_us,
        ratio=without_us / with_us,
        of="the same without it",
    )


class _NoCheck:
    def refused(self, *_: object) -> None:
        return None


async def _measure(
    registry: Registry,
    store_name: str,
    num_sessions: int,
    seconds: float,
    folder: Path,
    raw: Figure,
    in_bulk: bool = False,
) -> Figure:
    url, durability = STORES[store_name]
    store = open_store(url.format(folder=folder, stamp=time.time_ns()), StoreOptions(durability))
    engine = Engine(registry, store)
    await engine.start()
    keys = [Key("t", str(place)) for place in range(num_sessions)]
    create = CreateRequest(NAME, None, ttl_s=1e6)
    await asyncio.gather(*(engine.submit(key, create) for key in keys))
    rows = np.random.default_rng(1).normal(size=(64, 1, F)).astype(np.float32)
    observed = [Observations(rows=each) for each in rows]
    latencies: list[float] = []
    clock = time.perf_counter
    stop = clock() + seconds

    async def client(key: Key) -> None:
        step = 0
        while (sent := clock()) < stop:
            request = StepRequest(observed[step % 64], step)
            step = (await engine.submit(key, request)).step
            latencies.append(clock() - sent)

    wide = np.random.default_rng(1).normal(size=(64, num_sessions, F)).astype(np.float32)

    async def caller(mine: list[Key]) -> None:
        step = 0
        while (sent := clock()) < stop:
            values = wide[step % 64, : len(mine)]
            outcomes = await engine.step_rows(mine, values, [step] * len(mine))
            assert not outcomes.errors, next(iter(outcomes.errors.values()))
            step += 1
            latencies.extend([clock() - sent] * len(mine))

    cpu, started = time.process_time(), clock()
    if in_bulk:
        await asyncio.gather(*(caller(half) for half in (keys[::2], keys[1::2]) if half))
    else:
        await asyncio.gather(*(client(key) for key in keys))
    elapsed, cpu = clock() - started, time.process_time() - cpu
    await engine.close()
    await store.close()
    count = len(latencies)
    return Figure(
        f"engine in bulk, {store_name}" if in_bulk else f"engine, {store_name}",
        num_sessions,
        count / elapsed,
        percentile_ms(latencies, 0.5),
        percentile_ms(latencies, 0.99),
        1e6 * cpu / count,
        ratio=count / elapsed / raw.steps_per_s,
        of="raw loop, as many rows",
    )
