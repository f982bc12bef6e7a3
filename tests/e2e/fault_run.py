"""Many careful clients beside something that goes wrong; see `careful_client.py`.

`run_clients` knows neither servers nor stores: addresses come in, and `chaos` is whatever goes
wrong meanwhile, told how far the clients are. So the same run serves one process or several behind
a proxy, and any store.
"""

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np

from service.engine.graph.ort import ort
from tests.e2e.careful_client import CarefulClient, Steps
from tests.fakes.bundles import COLUMNS, DAY_S, QUANTILES, H

START_S = 1_471_824_000  # of `careful_client.START`


class Progress:
    """How many steps have been answered, of all clients and of each; who waits for how many."""

    def __init__(self, num_clients: int, num_steps: int) -> None:
        self.total = num_clients * num_steps
        self.count = 0
        self.counts: dict[str, int] = {}
        self._num_clients = num_clients
        self._waiting: list[tuple[Callable[[], bool], asyncio.Event]] = []

    def answered(self, client: CarefulClient) -> None:
        self.count += 1
        self.counts[client.session] = client.step
        for holds, event in self._waiting:
            if holds():
                event.set()

    async def reaches(self, count: int) -> None:
        """Return when `count` steps were answered."""
        await self._until(lambda: self.count >= count)

    async def everyone_reaches(self, step: int) -> None:
        """Return when each client has been answered `step` steps."""
        await self._until(
            lambda: len(self.counts) == self._num_clients and min(self.counts.values()) >= step
        )

    async def _until(self, holds: Callable[[], bool]) -> None:
        if not holds():
            waiting = holds, asyncio.Event()
            self._waiting.append(waiting)
            await waiting[1].wait()
            self._waiting.remove(waiting)


Chaos = Callable[[Progress, random.Random], Awaitable[None]]


def kill_at_random(server, num_kills: int) -> Chaos:
    """`kill -9` at random points of the clients' way; of five kills one hits a starting server."""

    async def kill(progress: Progress, rng: random.Random) -> None:
        for number, count in enumerate(sorted(rng.sample(range(progress.total), num_kills))):
            await progress.reaches(count)
            if number % 5 == 0:
                server.stop(signal.SIGKILL)
                server.start()
                await asyncio.sleep(rng.uniform(0, 1.5))
            await asyncio.to_thread(server.restart, signal.SIGKILL)

    return kill


def new_seed() -> int:
    """TEST_SEED of the environment, or a fresh one; every failure of a run names it."""
    return int(os.environ.get("TEST_SEED") or random.SystemRandom().randrange(2**32))


async def run_clients(
    urls: Sequence[str],
    models: Path,
    num_clients: int,
    num_steps: int,
    chaos: Chaos,
    *,
    seed: int | None = None,
    name: str = "client",
    may_lose: bool = False,
    **of_clients: float,
) -> list[CarefulClient]:
    """Run clients and chaos to their ends; then every session must stand at its count.

    None may have gone back on the way, unless the store `may_lose` what it acknowledged. Their
    sessions are `name`-0 and so on. Fails with the seed, which makes rows, retries and chaos again
    (not the timing).
    """
    seed = new_seed() if seed is None else seed
    steps = reference_steps(models, num_clients, num_steps, seed)
    clients = [
        CarefulClient(urls, f"{name}-{place}", each, random.Random(f"{seed} {place}"), **of_clients)
        for place, each in enumerate(steps)
    ]
    progress = Progress(num_clients, num_steps)
    try:
        async with asyncio.TaskGroup() as tasks:
            for client in clients:
                tasks.create_task(client.run(progress.answered))
            tasks.create_task(chaos(progress, random.Random(f"{seed} chaos")))
        counts = [await client.stored_step() for client in clients]
        assert counts == [num_steps] * num_clients
        assert may_lose or not any(client.num_gone_back for client in clients)
    except* Exception as errors:
        raise AssertionError(f"TEST_SEED={seed}: {errors.exceptions[0]}") from errors
    finally:
        for client in clients:
            client.close()
    return clients


def reference_steps(models: Path, num_clients: int, num_steps: int, seed: int) -> list[Steps]:
    """Rows for each client, and what the graph itself makes of each whole series, in one call."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_clients, num_steps, len(COLUMNS))).astype(np.float32)
    times = np.tile(START_S + DAY_S * np.arange(num_steps), (num_clients, 1))
    graph = ort.InferenceSession(models / "load" / "1" / "model.onnx")
    means, quantiles = graph.run(
        ["mean", "quantiles"],
        {
            "x": x,
            "time": times,
            "length": np.full(num_clients, num_steps),
            "state": np.zeros((num_clients, H), np.float32),
        },
    )
    return [
        Steps(
            x[client].tolist(),
            means[client].tolist(),
            [
                {f"{level:g}": of_step[:, place].tolist() for place, level in enumerate(QUANTILES)}
                for of_step in quantiles[client]
            ],
        )
        for client in range(num_clients)
    ]
