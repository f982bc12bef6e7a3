"""The service over its sockets: HTTP, `/v2`, WebSocket and Arrow, against a FastAPI no-op.

Whoever makes the load is a process of its own, pinned to one core.
"""

import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.bulk_client import warm_up
from tests.benchmarks.bundle import NAME, F
from tests.benchmarks.engine_load import STORES
from tests.benchmarks.figures import Figure
from tests.benchmarks.soak_client import Wire
from tests.e2e.server import Server, running_server

_ROW = [0.1234567 * (column + 1) for column in range(F)]
STEP_PATH = "/v1/sessions/s%d/steps"
STEP_BODY = json.dumps({"observations": [_ROW]})
INFER_PATH = f"/v2/models/{NAME}/infer"
INFER_TAIL = np.array(_ROW, "<f4").tobytes()
WINDOW = 168

STREAM_DEPTH = 2
"""While one step of a session is applied, its next is there already."""

HAS_WRK = shutil.which("wrk") is not None
LOAD_GENERATOR = "wrk" if HAS_WRK else "tests.benchmarks.http_client"
"""wrk takes less of the machine, which the server then has."""

_PINNED = ["taskset", "-c", str(max(os.sched_getaffinity(0)))] if shutil.which("taskset") else []


@contextmanager
def serving(
    models: Path, store_name: str, folder: Path, num_sessions: int, max_queue_s: float = 0.5
) -> Iterator[Server]:
    """The service with `num_sessions` open sessions `s0`, `s1`, …, and sequences 10, 11, …"""
    url, durability = STORES[store_name]
    store = url.format(folder=folder, stamp=time.time_ns())
    settings = {"models": models, "store": store, "durability": durability}
    with running_server(folder, **settings, max_queue_s=max_queue_s) as server:
        asyncio.run(_open_sessions(server.port, num_sessions))
        yield server


async def _open_sessions(port: int, num_sessions: int) -> None:
    numbers = iter(range(num_sessions))
    start = infer_body(sequence_start=True)

    async def open_some() -> None:
        wire = Wire(port)
        for number in numbers:
            body = json.dumps({"model": NAME, "session": f"s{number}"}).encode()
            status, answer = await wire.ask("POST", "/v1/sessions", body)
            assert status == 201, answer
            body = start.replace("%d", str(number)).encode()
            status, answer = await wire.ask("POST", INFER_PATH, body)
            assert status == 200, answer
        wire.close()

    await asyncio.gather(*(open_some() for _ in range(8)))


@contextmanager
def serving_noop(folder: Path) -> Iterator[Server]:
    """The no-op in a process of its own."""
    with running_server(folder, module="tests.benchmarks.noop_server") as server:
        yield server


def measure_http(
    name: str,
    server: Server,
    num_sessions: int,
    seconds: float,
    path: str,
    body: str,
    tail: bytes = b"",
) -> Figure:
    """Closed loop, one connection a session; `tail` are binary tensors behind the JSON."""
    command = _wrk if HAS_WRK else _http_client
    load = [*command(server, num_sessions, seconds, path, body), *([tail.hex()] if tail else [])]
    return _measure(name, server, num_sessions, seconds, load)


def measure_stream(
    name: str, server: Server, num_sockets: int, num_sessions: int, seconds: float
) -> Figure:
    """JSON steps over WebSockets; each session has `STREAM_DEPTH` steps under way."""
    numbers = map(str, (server.port, num_sockets, num_sessions, STREAM_DEPTH, seconds))
    command = [sys.executable, "-m", "tests.benchmarks.stream_client", *numbers, STEP_BODY]
    return _measure(name, server, num_sessions, seconds, command)


def measure_bulk_requests(name: str, server: Server, num_sessions: int, seconds: float) -> Figure:
    """Arrow bulks of so many rows each, over a few connections."""
    warm_up(server.port, num_sessions)
    numbers = map(str, (server.port, num_sessions, seconds))
    command = [sys.executable, "-m", "tests.benchmarks.bulk_client", *numbers]
    return _measure(name, server, num_sessions, seconds, command)


def _measure(
    name: str, server: Server, num_sessions: int, seconds: float, load: list[str]
) -> Figure:
    before, load_before = _cpu_s(server.process.pid), _children_cpu_s()
    run = subprocess.run(
        [*_PINNED, *load], capture_output=True, text=True, timeout=seconds + 60, check=False
    )
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout.splitlines()[-1])
    assert not answer.get("num_failed"), run.stdout
    cpu, load_cpu = _cpu_s(server.process.pid) - before, _children_cpu_s() - load_before
    return Figure(
        name,
        num_sessions,
        answer["steps_per_s"],
        answer["p50_ms"],
        answer["p99_ms"],
        1e6 * cpu / answer["count"],
        1e6 * answer.get("cpu_s", load_cpu) / answer["count"],
    )


def _wrk(server: Server, num_sessions: int, seconds: float, path: str, body: str) -> list[str]:
    script = str(Path(__file__).with_name("wrk.lua"))
    # An answer that comes late is slow, and no failure: uvicorn may leave one of many waiting.
    load = ["-t1", f"-c{num_sessions}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
    return ["wrk", *load, "-s", script, server.url, "--", path, body, str(num_sessions)]


def _http_client(
    server: Server, num_sessions: int, seconds: float, path: str, body: str
) -> list[str]:
    module = [sys.executable, "-m", "tests.benchmarks.http_client"]
    return [*module, str(server.port), str(num_sessions), str(seconds), path, body]


def infer_body(*, is_binary: bool = False, **parameters: bool) -> str:
    """A step of sequence `1%d` (0 is none), with tensors in JSON or, both ways, in binary."""
    x: dict[str, Any] = {"name": "x", "shape": [1, 1, F], "datatype": "FP32"}
    if is_binary:
        x["parameters"] = {"binary_data_size": len(INFER_TAIL)}
        parameters["binary_data_output"] = True
    else:
        x["data"] = _ROW
    body = {"parameters": {"sequence_id": 0} | parameters, "inputs": [x]}
    return json.dumps(body).replace('"sequence_id": 0', '"sequence_id": 1%d')


def window_body() -> str:
    """What a client without a server-side state sends at every step."""
    return json.dumps({"instances": [{"observations": [_ROW] * WINDOW}]})


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
