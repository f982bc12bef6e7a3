"""What one session and one step cost, of a replica and of Valkey: what deploy/sizing.md rests on.

    python -m tests.benchmarks.sizing [--sessions 20000] [--json deploy/measured.json]

Processor time is counted, not time: it hardly depends on who else uses the machine. The model is
that of `make bench` (state 2 × 128 floats, reply 24 × 9 numbers).
"""

import argparse
import gc
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import uvloop

from service.engine.engine import Engine
from service.engine.gc_tuning import settle_collector
from service.engine.limits import EngineLimits
from service.engine.session.requests import CreateRequest
from service.stores.factory import open_store
from service.stores.record.record import Key
from tests.benchmarks.bundle import NAME, F, bench_registry
from tests.benchmarks.figures import resident_bytes
from tests.benchmarks.http_load import STEP_BODY, STEP_PATH, measure_http
from tests.benchmarks.soak_client import Wire
from tests.e2e.server import running_server
from tests.stores.valkey import SAFE, Valkey, running_valkey

GROUP = 128
ROUNDS = 4
CONNECTIONS = 128
HTTP_S = 5.0


def processor_s(valkey: Valkey) -> float:
    info = valkey.ask("INFO", "cpu")
    return float(info["used_cpu_user"] + info["used_cpu_sys"])


def log_bytes(valkey: Valkey) -> int:
    return sum(each.stat().st_size for each in valkey.folder.rglob("*.aof"))


async def measure_sessions(valkey: Valkey, folder: Path, num_sessions: int) -> dict[str, float]:
    """Bytes of a session in a replica and in Valkey; processor time and log of a committed step."""
    registry = bench_registry(folder)
    store = open_store(valkey.url)
    engine = Engine(registry, store, EngineLimits(cache_sessions=10 * num_sessions))
    await engine.start()
    settle_collector()
    keys = [Key("t", f"session-{place}") for place in range(num_sessions)]
    row = np.ones((1, F), np.float32)
    before = resident_bytes(), int(valkey.ask("INFO", "memory")["used_memory"])
    for first in range(0, num_sessions, GROUP):
        some = keys[first : first + GROUP]
        opened = await engine.submit_many(
            [(key, CreateRequest(NAME, None, ttl_s=1e6)) for key in some]
        )
        assert not opened.errors, next(iter(opened.errors.values()))
        await step(engine, some, row, 0)
    gc.collect()
    after = resident_bytes(), int(valkey.ask("INFO", "memory")["used_memory"])
    cpu, log, mine = processor_s(valkey), log_bytes(valkey), time.process_time()
    for count in range(1, ROUNDS + 1):
        for first in range(0, num_sessions, GROUP):
            await step(engine, keys[first : first + GROUP], row, count)
    num_steps = ROUNDS * num_sessions
    found = {
        "replica_bytes_per_session": (after[0] - before[0]) / num_sessions,
        "valkey_bytes_per_session": (after[1] - before[1]) / num_sessions,
        "valkey_us_per_step": 1e6 * (processor_s(valkey) - cpu) / num_steps,
        "log_bytes_per_step": (log_bytes(valkey) - log) / num_steps,
        "replica_us_per_bulk_step": 1e6 * (time.process_time() - mine) / num_steps,
    }
    await engine.close()
    await store.close()
    return found


async def step(engine: Engine, keys: list[Key], row: np.ndarray, count: int) -> None:
    stepped = await engine.step_rows(keys, np.repeat(row, len(keys), 0), [count] * len(keys))
    assert not stepped.errors, next(iter(stepped.errors.values()))


def measure_requests(valkey: Valkey, folder: Path) -> dict[str, float]:
    """Processor time of a step by HTTP, a request each, in a replica and in Valkey."""
    settings = {"models": folder / "models", "store": valkey.url}
    with running_server(folder, **settings) as server:
        uvloop.run(open_sessions(server.port))
        before = processor_s(valkey)
        figure = measure_http("HTTP", server, CONNECTIONS, HTTP_S, STEP_PATH, STEP_BODY)
        cpu = processor_s(valkey) - before
    return {
        "replica_us_per_request": figure.cpu_us_per_step,
        "valkey_us_per_request": 1e6 * cpu / (figure.steps_per_s * HTTP_S),
    }


async def open_sessions(port: int) -> None:
    wire = Wire(port)
    for place in range(CONNECTIONS):
        body = {"model": NAME, "session": f"s{place}"}
        status, answer = await wire.ask("POST", "/v1/sessions", json.dumps(body).encode())
        assert status == 201, answer
    wire.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sizing", description=__doc__)
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--json", type=Path, default=Path("bench-results/sizing.json"))
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="carry-sizing-") as name,
        running_valkey(**SAFE, auto_aof_rewrite_percentage=0) as v,
    ):
        figures = uvloop.run(measure_sessions(v, Path(name), asked.sessions))
        figures |= measure_requests(v, Path(name))
    described = {
        "command": f"python -m tests.benchmarks.sizing --sessions {asked.sessions}",
        "date": datetime.now(UTC).date().isoformat(),
        "figures": {name: round(value, 1) for name, value in figures.items()},
    }
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(described, indent=2) + "\n")
    print(json.dumps(described, indent=2))


if __name__ == "__main__":
    main()
