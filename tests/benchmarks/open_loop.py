"""Open-loop load, in a process of its own: requests are sent when due, however many are unanswered.

    python -m tests.benchmarks.open_loop PORT PER_S SECONDS CONNECTIONS PATH BODY

`%d` in PATH becomes the number of the connection. A latency counts from the time at which the
request was due, so a pause of the server counts for everybody who waited through it. Prints one
line of JSON.
"""

import asyncio
import json
import sys
import time
from collections import Counter, deque

import uvloop

from tests.benchmarks.figures import percentile_ms


class _Connection(asyncio.Protocol):
    """One request at a time; tells when it is free again."""

    def __init__(self, load: "_Load") -> None:
        self._load = load
        self.is_closed = False
        self._buffer = bytearray()
        self._due = 0.0

    def connection_made(self, transport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True

    def send(self, request: bytes, due: float) -> None:
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = bytes(self._buffer[:head]).lower()
        place = lower.index(b"content-length:") + 15
        size = int(lower[place : (lower + b"\r").index(b"\r", place)])
        if len(self._buffer) < head + 4 + size:
            return
        status = int(self._buffer[9:12])
        self._buffer.clear()
        self._load.answered(self, status, self._due)


class _Load:
    def __init__(self, port: int) -> None:
        self._port = port
        self._opening: set[asyncio.Task] = set()
        self.free: deque[tuple[_Connection, bytes]] = deque()
        self.requests: dict[_Connection, bytes] = {}
        self.due: deque[float] = deque()
        self.latencies: dict[int, list[float]] = {}
        self.num_waiting = 0
        self.is_all_sent = False
        self.all_answered = asyncio.get_running_loop().create_future()

    async def open(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(self), "127.0.0.1", self._port
        )
        self.requests[connection] = request
        self.free.append((connection, request))
        self.send_what_is_due()

    def send_what_is_due(self) -> None:
        while len(self.due) > len(self._opening) and self.free:
            connection, request = self.free.pop()  # the last one used: the server closes idle ones
            if connection.is_closed:
                task = asyncio.ensure_future(self.open(request))
                self._opening.add(task)
                task.add_done_callback(self._opening.discard)
            else:
                connection.send(request, self.due.popleft())
                self.num_waiting += 1

    def answered(self, connection: _Connection, status: int, due: float) -> None:
        self.latencies.setdefault(status, []).append(time.perf_counter() - due)
        self.num_waiting -= 1
        self.free.append((connection, self.requests[connection]))
        self.send_what_is_due()
        if self.is_all_sent and not self.num_waiting and not self.all_answered.done():
            self.all_answered.set_result(None)


async def run(port: int, per_s: float, seconds: float, connections: int, path: str, body: bytes):
    load = _Load(port)
    for place in range(connections):
        head = (
            f"POST {path.replace('%d', str(place))} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        await load.open(head.encode() + body)
    started = time.perf_counter()
    sent, total = 0, int(per_s * seconds)
    while sent < total:
        now = time.perf_counter()
        while sent < total and started + sent / per_s <= now:
            load.due.append(started + sent / per_s)
            sent += 1
        load.send_what_is_due()
        await asyncio.sleep(0.0005)
    load.is_all_sent = True
    if load.num_waiting or load.due:
        await asyncio.wait({load.all_answered}, timeout=10)
    return {
        "asked_per_s": per_s,
        "unanswered": load.num_waiting + len(load.due),
        "statuses": dict(Counter({str(k): len(v) for k, v in load.latencies.items()})),
        "by_status": {
            str(status): {
                "p50_ms": percentile_ms(each, 0.5),
                "p99_ms": percentile_ms(each, 0.99),
                "max_ms": 1000 * max(each),
            }
            for status, each in load.latencies.items()
        },
    }


def main() -> None:
    port, per_s, seconds, connections, path, body = sys.argv[1:]
    arguments = int(port), float(per_s), float(seconds), int(connections), path
    data = sys.stdin.buffer.read() if body == "-" else body.encode()
    print(json.dumps(uvloop.run(run(*arguments, data))))


if __name__ == "__main__":
    main()
