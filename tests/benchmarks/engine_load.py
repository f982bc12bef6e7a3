"""The engine in this process, against a bare loop over the same graph."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from service.engine.engine import Engine
from service.engine.gc_tuning import settle_collector
from service.engine.graph.finiteness import FiniteCheck
from service.engine.models.loaded_model import LoadedModel
from service.engine.models.registry import Registry
from service.engine.session.requests import CreateRequest, Observations, StepRequest
from service.stores.base import StoreOptions
from service.stores.factory import open_store
from service.stores.record.record import Key
from tests.benchmarks.bundle import NAME, F
from tests.benchmarks.figures import Figure, percentile_ms

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


def measure_finite_check(
    registry: Registry, num_sessions: int, seconds: float, folder: Path, raw: Figure
) -> Figure:
    """The engine over the same engine without its look at what is finite.

    That takes about a hundredth: less than two runs differ by, so it is timed within one.
    """
    runner = registry.get(NAME).runner
    check = runner._finite_check
    timed = runner._finite_check = _TimedCheck(check)  # type: ignore[assignment]
    try:
        figure = measure_engine(registry, "memory", num_sessions, seconds, folder, raw)
    finally:
        runner._finite_check = check
    share = timed.elapsed_s / timed.num_rows * figure.steps_per_s
    return replace(figure, name="engine, finite check", ratio=1 - share, of="the same without it")


class _TimedCheck:
    def __init__(self, check: FiniteCheck) -> None:
        self.num_rows = 0
        self._check = check
        self._in_check_s = 0.0
        self._num_calls = 0

    def refused(
        self,
        outputs: dict[str, np.ndarray],
        answers: dict[str, np.ndarray],
        lengths: np.ndarray,
        last: np.ndarray,
    ) -> np.ndarray | None:
        refused = self._check.refused
        started = time.perf_counter()
        found = refused(outputs, answers, lengths, last)
        self._in_check_s += time.perf_counter() - started
        self._num_calls += 1
        self.num_rows += len(lengths)
        return found

    @property
    def elapsed_s(self) -> float:
        """Without the clock's own time."""
        clock = time.perf_counter
        return self._in_check_s - self._num_calls * min(-clock() + clock() for _ in range(1000))


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
    wide = np.random.default_rng(1).normal(size=(64, num_sessions, F)).astype(np.float32)
    stop = clock() + seconds

    async def client(key: Key) -> None:
        step = 0
        while (sent := clock()) < stop:
            request = StepRequest(observed[step % 64], step)
            step = (await engine.submit(key, request)).step
            latencies.append(clock() - sent)

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
