"""`make bench`: a table and bench-results/bench.json.

Every ratio is to a reference measured in the same round, so that it holds on a shared machine whose
speed drifts; the table shows the medians of the rounds.
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from service.engine.models.registry import load_registry
from tests.benchmarks.bulk_client import NUM_CONNECTIONS
from tests.benchmarks.bundle import NAME, write_bench_bundle
from tests.benchmarks.chart import draw
from tests.benchmarks.engine_load import (
    STORES,
    measure_bulk,
    measure_engine,
    measure_finite_check,
    measure_raw_loop,
)
from tests.benchmarks.figures import Figure, median_figure, print_table, write_json
from tests.benchmarks.http_load import (
    INFER_PATH,
    INFER_TAIL,
    LOAD_GENERATOR,
    STEP_BODY,
    STEP_PATH,
    infer_body,
    measure_bulk_requests,
    measure_http,
    measure_stream,
    serving,
    serving_noop,
    window_body,
)
from tests.e2e.server import Server

SESSIONS = (1, 32, 128, 1024)
BULK_SESSIONS = 10_000
KINDS = ("engine", "http", "v2", "stream", "bulk")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--sessions", type=int, nargs="+", default=SESSIONS)
    parser.add_argument("--json", type=Path, default=Path("bench-results/bench.json"))
    parser.add_argument("--chart", type=Path, help="draw steps a second into this PNG")
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    rounds: dict[tuple[str, int], list[Figure]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="carry-bench-") as name:
        folder = Path(name)
        write_bench_bundle(folder / "models")
        for _ in range(asked.rounds):
            measured = []
            if "engine" in asked.only:
                measured += engine_round(folder, asked.sessions, asked.seconds)
            if not {"http", "v2", "stream"}.isdisjoint(asked.only):
                measured += socket_round(folder, asked.sessions, asked.seconds, asked.only)
            if "bulk" in asked.only:
                measured += bulk_round(folder, asked.seconds)
            for figure in measured:
                rounds[figure.name, figure.sessions].append(figure)
    figures = [median_figure(each) for each in rounds.values()]
    print_table(figures)
    if asked.chart:
        draw(figures, asked.chart)
    write_json(figures, asked.json, asked.rounds, asked.seconds, LOAD_GENERATOR)


def engine_round(folder: Path, sessions: list[int], seconds: float) -> list[Figure]:
    """The raw loop and the engine over every store, at each number of sessions, and what it takes
    to see that its numbers are finite."""
    registry = load_registry(folder / "models", "cpu", 1)
    model = registry.get(NAME)
    measured = []
    for num_sessions in sessions:
        raw = measure_raw_loop(model, min(num_sessions, 128), seconds)
        measured.append(replace(raw, sessions=num_sessions))
        measured += [
            measure(registry, store, num_sessions, seconds, folder, raw)
            for measure in (measure_engine, measure_bulk)
            for store in STORES
        ]
        measured.append(measure_finite_check(registry, num_sessions, seconds, folder, raw))
    return measured


def socket_round(
    folder: Path, sessions: list[int], seconds: float, kinds: Sequence[str]
) -> list[Figure]:
    """The no-op, then the service over the stores by HTTP, `/v2` and WebSocket, and stateless."""
    noop = {}
    with serving_noop(folder) as server:
        for count in sessions:
            name = "FastAPI no-op"
            noop[count] = measure_http(name, server, count, seconds, STEP_PATH, STEP_BODY)
    measured = []
    for store in ("memory", "sqlite power"):
        # Windows of many clients fill any sensible queue: they shall wait, not be refused.
        with serving(folder / "models", store, folder, max(sessions), max_queue_s=60) as server:
            for count in sessions:
                if "http" in kinds:
                    name = f"HTTP JSON, {store}"
                    path, body = STEP_PATH, STEP_BODY
                    measured.append(measure_http(name, server, count, seconds, path, body))
                if "v2" in kinds:
                    measured += infer_figures(server, store, count, seconds)
                if "stream" in kinds:
                    name = f"WebSocket, {store}"
                    measured.append(measure_stream(name, server, count, count, seconds))
                if store == "memory" and "stream" in kinds and count > 1:
                    name = f"one WebSocket, {store}"
                    measured.append(measure_stream(name, server, 1, count, seconds))
                if store == "memory" and "http" in kinds:
                    name = "stateless, 168-step window"
                    path, body = f"/v1/models/{NAME}/predict", window_body()
                    measured.append(measure_http(name, server, count, seconds, path, body))
    return [*noop.values(), *(related(each, noop[each.sessions]) for each in measured)]


def infer_figures(server: Server, store: str, num_sessions: int, seconds: float) -> list[Figure]:
    """Steps of sequences, with the tensors of requests and answers in JSON and in binary."""
    names = f"/v2 JSON, {store}", f"/v2 binary, {store}"
    as_json = INFER_PATH, infer_body()
    as_binary = INFER_PATH, infer_body(is_binary=True), INFER_TAIL
    return [
        measure_http(name, server, num_sessions, seconds, *request)
        for name, request in zip(names, (as_json, as_binary), strict=True)
    ]


def bulk_round(folder: Path, seconds: float) -> list[Figure]:
    """Arrow requests of many sessions, against the bare loop over the graph."""
    model = load_registry(folder / "models", "cpu", 1).get(NAME)
    raw = measure_raw_loop(model, 128, seconds)
    num_sessions = NUM_CONNECTIONS * BULK_SESSIONS
    with serving(folder / "models", "memory", folder, num_sessions) as server:
        measured = measure_bulk_requests("Arrow bulk, memory", server, BULK_SESSIONS, seconds)
    return [replace(raw, sessions=BULK_SESSIONS), related(measured, raw)]


def related(figure: Figure, reference: Figure) -> Figure:
    return replace(figure, ratio=figure.steps_per_s / reference.steps_per_s, of=reference.name)


if __name__ == "__main__":
    main()
