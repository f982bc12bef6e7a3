"""The service over HTTP, one step a request, against a FastAPI no-op with the same bodies."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.benchmarks.bundle import NAME, F
from tests.benchmarks.engine_load import STORES
from tests.benchmarks.figures import Figure
from tests.e2e.server import Server, running_server

STEP_PATH = "/v1/sessions/s%d/steps"
STEP_BODY = json.dumps({"observations": [[0.1234567 * (c + 1) for c in range(F)]]})
WINDOW = 168

HAS_WRK = all(map(shutil.which, ("wrk", "taskset")))
LOAD_GENERATOR = "wrk, pinned to one core" if HAS_WRK else "tests.benchmarks.http_client"
"""wrk takes less of the machine, which the server then has."""


@contextmanager
def serving(
    models: Path, store_name: str, folder: Path, num_sessions: int, max_queue_s: float = 0.5
) -> Iterator[Server]:
    """The service with `num_sessions` open sessions `s0`, `s1`, …"""
    url, durability = STORES[store_name]
    store = url.format(folder=folder, stamp=time.time_ns())
    settings = {"models": models, "store": store, "durability": durability}
    with running_server(folder, **settings, max_queue_s=max_queue_s) as server:
        with httpx.Client(base_url=server.url) as client:
            for place in range(num_sessions):
                body = {"model": NAME, "session": f"s{place}"}
                client.post("/v1/sessions", json=body).raise_for_status()
        yield server


@contextmanager
def serving_noop(folder: Path) -> Iterator[Server]:
    """The no-op in a process of its own."""
    with running_server(folder, module="tests.benchmarks.noop_server") as server:
        yield server


def measure_http(
    name: str, server: Server, num_sessions: int, seconds: float, path: str, body: str
) -> Figure:
    """Closed loop from another process, one connection a session."""
    before = _cpu_s(server.process.pid)
    command = _wrk if HAS_WRK else _http_client
    run = subprocess.run(
        command(server, num_sessions, seconds, path, body),
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
    )
    answer = json.loads(run.stdout.splitlines()[-1])
    assert not answer.get("num_failed"), run.stdout
    cpu = _cpu_s(server.process.pid) - before
    return Figure(
        name,
        num_sessions,
        answer["steps_per_s"],
        answer["p50_ms"],
        answer["p99_ms"],
        1e6 * cpu / answer["count"],
    )


def _wrk(server: Server, num_sessions: int, seconds: float, path: str, body: str) -> list[str]:
    script = str(Path(__file__).with_name("wrk.lua"))
    last_core = str(max(os.sched_getaffinity(0)))
    load = ["-t1", f"-c{num_sessions}", f"-d{max(1, round(seconds))}s", "-s", script, server.url]
    return ["taskset", "-c", last_core, "wrk", *load, "--", path, body, str(num_sessions)]


def _http_client(
    server: Server, num_sessions: int, seconds: float, path: str, body: str
) -> list[str]:
    module = [sys.executable, "-m", "tests.benchmarks.http_client"]
    return [*module, str(server.port), str(num_sessions), str(seconds), path, body]


def window_body() -> str:
    """What a client without a server-side state sends at every step."""
    row = json.loads(STEP_BODY)["observations"][0]
    return json.dumps({"instances": [{"observations": [row] * WINDOW}]})


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
