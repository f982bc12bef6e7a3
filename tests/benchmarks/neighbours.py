"""What one client's load does to the others: a long history beside single steps, and overload.

python -m tests.benchmarks.neighbours [history] [overload]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from tests.benchmarks.bundle import NAME, write_bench_bundle
from tests.benchmarks.figures import resident_bytes, write_answer
from tests.benchmarks.http_load import STEP_BODY, STEP_PATH, serving
from tests.e2e.server import Server

HISTORY_ROWS = 100_000
OVERLOAD_ROWS = 256


def open_loop(server: Server, per_s: float, seconds: float, connections: int, body: str) -> dict:
    # On one core, so that the server has the other.
    pinned = ["taskset", "-c", str(max(os.sched_getaffinity(0)))] if shutil.which("taskset") else []
    command = [*pinned, sys.executable, "-m", "tests.benchmarks.open_loop"]
    numbers = [str(server.port), str(per_s), str(seconds), str(connections)]
    run = subprocess.run(
        [*command, *numbers, STEP_PATH, "-"],
        input=body.encode(),
        stdout=subprocess.PIPE,
        check=True,
        timeout=seconds + 60,
    )
    return json.loads(run.stdout)


def history(models: Path, folder: Path, per_s: float, seconds: float) -> dict:
    """Single steps of 64 sessions without, then with, a client that feeds long histories."""
    row = json.loads(STEP_BODY)["observations"][0]
    fed = {"model": NAME, "history": {"observations": [row] * HISTORY_ROWS}}
    body = json.dumps(fed).encode()
    num_fed = 0
    with serving(models, "memory", folder, 64) as server:
        open_loop(server, per_s, 2, 64, STEP_BODY)  # warm
        alone = open_loop(server, per_s, seconds, 64, STEP_BODY)
        done = threading.Event()

        def feed() -> None:
            nonlocal num_fed
            with httpx.Client(base_url=server.url, timeout=60) as client:
                head = {"Content-Type": "application/json"}
                while not done.is_set():
                    client.post("/v1/sessions", content=body, headers=head).raise_for_status()
                    num_fed += 1

        feeder = threading.Thread(target=feed)
        feeder.start()
        time.sleep(2)  # the first one is on its way
        beside = open_loop(server, per_s, seconds, 64, STEP_BODY)
        done.set()
        feeder.join()
    return {
        "rows": HISTORY_ROWS,
        "histories_fed": num_fed,
        "alone": alone,
        "beside": beside,
        "p99_ratio": beside["by_status"]["200"]["p99_ms"] / alone["by_status"]["200"]["p99_ms"],
        "max_ms": beside["by_status"]["200"]["max_ms"],
    }


def overload(models: Path, folder: Path, seconds: float) -> dict:
    """Four times what the engine can do, then quiet again."""
    row = json.loads(STEP_BODY)["observations"][0]
    body = json.dumps({"observations": [row] * OVERLOAD_ROWS})
    with serving(models, "memory", folder, 2048) as server:
        calm = open_loop(server, 200, 4, 64, STEP_BODY)
        flood = open_loop(server, 800, 8, 2048, body)
        capacity = flood["statuses"]["200"] / 8
        # Saturated: a little more than it can do, so that its queue is full.
        saturated = open_loop(server, 1.2 * capacity, 10, 2048, body)
        before = resident_bytes(server.process.pid)
        flooded = open_loop(server, 4 * capacity, seconds, 2048, body)
        after = resident_bytes(server.process.pid)
        calm_again = open_loop(server, 200, 4, 64, STEP_BODY)
    accepted, ordinary = flooded["by_status"]["200"], saturated["by_status"]["200"]
    return {
        "rows": OVERLOAD_ROWS,
        "capacity_per_s": capacity,
        "saturated": saturated,
        "overloaded": flooded,
        "p99_ratio": accepted["p99_ms"] / ordinary["p99_ms"],
        "resident_mib_before": before / 2**20,
        "resident_mib_after": after / 2**20,
        "calm_p50_ms": calm["by_status"]["200"]["p50_ms"],
        "calm_again_p50_ms": calm_again["by_status"]["200"]["p50_ms"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["history", "overload"])
    parser.add_argument("--per-s", type=float, default=1000)
    parser.add_argument("--seconds", type=float)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="carry-bench-") as name:
        folder = Path(name)
        models = folder / "models"
        write_bench_bundle(models)
        if "history" in asked.what:
            found = history(models, folder, asked.per_s, asked.seconds or 15)
            write_answer("history", found)
        if "overload" in asked.what:
            write_answer("overload", overload(models, folder, asked.seconds or 60))


if __name__ == "__main__":
    main()
