"""Does anything grow? The service at 70 % of what it can, for a long time; sessions come and go.

    python -m tests.benchmarks.soak [--minutes 20] [--store STORE] [--out bench-results/soak]

First a few seconds in a closed loop say what this machine can. Then steps are sent when due, from
sessions that live for a while: half are deleted at their end, half are left to expire. The cache
has room for few of them, so that it is full before the second half begins. Writes OUT.json and
OUT.png.

Flatness is judged by the slope of a straight line through the second half of the samples: what it
adds in an hour, as a share of the median. Memory is flat when that is under 5 %; of a run under ten
minutes that says little.
"""

import argparse
import asyncio
import json
import os
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import uvloop

from tests.benchmarks.bundle import NAME, write_bench_bundle
from tests.benchmarks.engine_load import STORES
from tests.benchmarks.figures import percentile_ms
from tests.benchmarks.http_load import STEP_BODY
from tests.benchmarks.soak_chart import draw_soak
from tests.benchmarks.soak_client import Load
from tests.e2e.server import Server, running_server

CALIBRATE_S = 5.0
SHARE = 0.7
FLAT_SHARE_PER_H = 0.05
GAUGES = ("carry_sessions_cached", "carry_state_bytes_cached", "carry_queue_depth")
JUDGED = ("resident_mib", "file_descriptors", "threads", "p99_ms", "carry_sessions_cached")


async def soak(server: Server, seconds: float, every_s: float, num_connections: int) -> dict:
    load = Load(server.port, NAME, STEP_BODY.encode())
    await load.connect(num_connections)
    can_per_s = await load.closed_loop(CALIBRATE_S)
    due = asyncio.create_task(load.open_loop(SHARE * can_per_s, seconds))
    started = time.perf_counter()
    samples = []
    while not due.done():
        await asyncio.wait({due}, timeout=every_s)
        samples.append(await sample(server, load, time.perf_counter() - started))
    await due
    await load.close()
    return {
        "asked_per_s": SHARE * can_per_s,
        "can_per_s": can_per_s,
        "connections": num_connections,
        "sessions_opened": load.num_opened,
        "statuses": {str(status): count for status, count in load.statuses.items()},
        "samples": samples,
        "slopes": slopes(samples),
    }


async def sample(server: Server, load: Load, at_s: float) -> dict[str, float]:
    process = Path(f"/proc/{server.process.pid}")
    pages = int((process / "statm").read_text().split()[1])
    threads = re.search(r"^Threads:\s+(\d+)", (process / "status").read_text(), re.MULTILINE)
    _, text = await load.get("/metrics")
    latencies = load.take_latencies()
    found = {
        "at_s": at_s,
        "resident_mib": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "file_descriptors": float(len(list((process / "fd").iterdir()))),
        "threads": float(threads[1]),
        "steps": float(len(latencies)),
        "p50_ms": percentile_ms(latencies, 0.5) if latencies else 0.0,
        "p99_ms": percentile_ms(latencies, 0.99) if latencies else 0.0,
    }
    for name in GAUGES:
        values = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text.decode(), re.MULTILINE)
        found[name] = sum(map(float, values))
    return found


def slopes(samples: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Of the second half, when caches are filled: per hour, and as a share of the median."""
    later = samples[len(samples) // 2 :]
    hours = np.array([each["at_s"] for each in later]) / 3600
    found = {}
    for name in JUDGED:
        values = np.array([each[name] for each in later])
        per_h = float(np.polyfit(hours, values, 1)[0]) if len(later) > 1 else 0.0
        middle = float(np.median(values))
        found[name] = {"median": middle, "per_h": per_h, "share_per_h": per_h / max(middle, 1e-9)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--store", choices=list(STORES), default="sqlite power")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--cache-sessions", type=int, default=1000)
    parser.add_argument("--every-s", type=float, default=5.0, help="between two samples")
    parser.add_argument("--out", type=Path, default=Path("bench-results/soak"))
    asked = parser.parse_args()
    url, durability = STORES[asked.store]
    with tempfile.TemporaryDirectory(prefix="carry-soak-") as name:
        folder = Path(name)
        write_bench_bundle(folder / "models")
        store = url.format(folder=folder, stamp=time.time_ns())
        settings = {"models": folder / "models", "store": store, "durability": durability}
        settings["cache_sessions"] = asked.cache_sessions
        with running_server(folder, **settings) as server:
            answer = uvloop.run(soak(server, 60 * asked.minutes, asked.every_s, asked.connections))
    answer = {
        "store": asked.store,
        "minutes": asked.minutes,
        "cache_sessions": asked.cache_sessions,
    } | answer
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.with_suffix(".json").write_text(json.dumps(answer, indent=2) + "\n")
    draw_soak(answer, asked.out.with_suffix(".png"))
    print(json.dumps({k: v for k, v in answer.items() if k != "samples"}, indent=2))
    memory = answer["slopes"]["resident_mib"]["share_per_h"]
    verdict = "flat" if memory < FLAT_SHARE_PER_H else "GROWS"
    print(f"memory: {100 * memory:+.1f} % an hour of {asked.minutes:g} minutes: {verdict}")


if __name__ == "__main__":
    main()
