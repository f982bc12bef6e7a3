"""A load generator for Arrow bulks in a process of its own: the same body again and again.

    python -m tests.benchmarks.bulk_client PORT SESSIONS SECONDS

Over two connections, each with so many sessions of its own: a request is a row for every one of
them; the next is sent when its answer has come in whole. Prints one line of JSON.
"""

import http.client
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from service.api.sessions.bulk import ARROW, BULK_PATH
from tests.benchmarks.bundle import F
from tests.benchmarks.figures import percentile_ms

NUM_CONNECTIONS = 2
"""So that one request is read or answered while the graph runs for the other."""


def body_of(num_sessions: int, first: int = 0) -> bytes:
    values = np.random.default_rng(0).normal(size=num_sessions * F).astype(np.float32)
    table = pa.table(
        {
            "session": [f"s{first + place}" for place in range(num_sessions)],
            "observations": pa.FixedSizeListArray.from_arrays(pa.array(values), F),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def ask(connection: http.client.HTTPConnection, body: bytes, buffer: bytearray) -> memoryview:
    connection.request("POST", BULK_PATH, body, {"Content-Type": ARROW})
    answer = connection.getresponse()
    size, at = int(answer.headers["content-length"]), 0
    assert answer.status == 200, answer.read()
    view = memoryview(buffer)
    while at < size:
        at += answer.readinto(view[at:size])
    answer.close()
    return view[:size]


def warm_up(port: int, num_sessions: int) -> None:
    """Ask once, so that the service has imported what it needs, and read the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    answer = ask(connection, body_of(num_sessions), bytearray(2048 * num_sessions + 65_536))
    told = pa.ipc.open_stream(answer).read_all()
    assert told["status"].to_pylist() == [200] * num_sessions, told["error"]
    connection.close()


def load(port: int, num_sessions: int, seconds: float, number: int) -> list[float]:
    """Latencies of one connection's requests; the first, which warms up, is not counted."""
    body = body_of(num_sessions, number * num_sessions)
    buffer = bytearray(2048 * num_sessions + 65_536)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    size = len(ask(connection, body, buffer))
    latencies: list[float] = []
    stop = time.perf_counter() + seconds
    while (sent := time.perf_counter()) < stop:
        assert len(ask(connection, body, buffer)) == size, "an answer of another size"
        latencies.append(time.perf_counter() - sent)
    return latencies


def main() -> None:
    port, num_sessions, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    cpu = time.process_time()
    with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
        loads = [
            pool.submit(load, port, num_sessions, seconds, number)
            for number in range(NUM_CONNECTIONS)
        ]
        each = [load.result() for load in loads]
    latencies = [latency for one in each for latency in one]
    answer = {
        "steps_per_s": sum(len(one) * num_sessions / sum(one) for one in each),
        "p50_ms": percentile_ms(latencies, 0.5),
        "p99_ms": percentile_ms(latencies, 0.99),
        # What the server worked for.
        "count": (len(latencies) + NUM_CONNECTIONS) * num_sessions,
        "cpu_s": time.process_time() - cpu,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
