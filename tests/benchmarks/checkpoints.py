"""What checkpoints of the durable store cost those who commit meanwhile, without an engine.

    python -m tests.benchmarks.checkpoints [--pages 512] [--mib 16]

Steps of random sessions come at a fixed rate, each a commit of its own. Told are the latencies of
commits, and how long the store was at it: `passive` beside the commits, `restart` while they wait.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import uvloop

from service.stores.record.record import Record
from service.stores.sqlite import log as sqlite_log
from service.stores.sqlite import log_size as sqlite_log_size
from service.stores.sqlite.log import WriteAheadLog
from service.stores.sqlite.store import SqliteStore
from tests.benchmarks.figures import percentile_ms, write_answer
from tests.stores.support import after, opened

STATE = bytes(2000)
GROUP = 500


async def measure(path: Path, num_sessions: int, per_s: int, num_steps: int) -> list[float]:
    store, chance = SqliteStore.open(path, "power"), random.Random(0)
    records: list[Record] = []
    for first in range(0, num_sessions, GROUP):
        bases = await opened(store, *(f"s{first + place}" for place in range(GROUP)))
        steps = [after(base, state=STATE) for base in bases]
        writes = [(each.header, each.data, base) for each, base in zip(steps, bases, strict=True)]
        records += await store.commit(writes)
    latencies: list[float] = []
    order = chance.choices(range(num_sessions), k=num_steps)
    locks: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
    started = time.perf_counter()

    async def step(place: int, due: float) -> None:
        async with locks[place]:  # as a session's session queue does
            base = records[place]
            made = after(base, state=STATE)
            [records[place]] = await store.commit([(made.header, made.data, base)])
            latencies.append(time.perf_counter() - due)

    async with asyncio.TaskGroup() as tasks:
        for number, place in enumerate(order):
            due = started + number / per_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(step(place, due))
    await store.close()
    return latencies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=sqlite_log._CHECKPOINT_PAGES)
    parser.add_argument("--mib", type=int, default=sqlite_log_size.CHECKPOINT_BYTES >> 20)
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--per-s", type=int, default=500)
    parser.add_argument("--steps", type=int, default=5_000)
    asked = parser.parse_args()
    sqlite_log._CHECKPOINT_PAGES = asked.pages
    sqlite_log_size.CHECKPOINT_BYTES = asked.mib << 20  # type: ignore[misc]  # for this run
    spent: dict[str, list[float]] = defaultdict(list)
    run = WriteAheadLog._checkpoint_locked

    def timed(log: WriteAheadLog, how: str) -> tuple[int, int, int]:
        started = time.perf_counter()
        told = run(log, how)
        spent[how.lower()].append(time.perf_counter() - started)
        return told

    WriteAheadLog._checkpoint_locked = timed  # type: ignore[method-assign]  # measured, as it is
    with tempfile.TemporaryDirectory(prefix="carry-bench-") as name:
        measured = measure(Path(name) / "s.db", asked.sessions, asked.per_s, asked.steps)
        latencies = uvloop.run(measured)
    figures = {"commits": latencies, **spent}
    shown = {
        name: {"count": len(each), "p50_ms": percentile_ms(each, 0.5)}
        | {"p999_ms": percentile_ms(each, 0.999), "max_ms": 1000 * max(each)}
        for name, each in figures.items()
    }
    write_answer("checkpoints", {"pages": asked.pages, "mib": asked.mib} | shown)


if __name__ == "__main__":
    main()
