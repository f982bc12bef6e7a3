"""A load generator in a process of its own: closed loop over keep-alive connections.

    python -m tests.benchmarks.http_client PORT CONNECTIONS SECONDS PATH BODY [TAIL]

`%d` in PATH and BODY becomes the number of the connection. TAIL, in hexadecimal digits, holds the
binary tensors of `/v2` that follow the JSON. Prints one line of JSON.
"""

import asyncio
import json
import sys
import time

import uvloop

from tests.benchmarks.figures import percentile_ms


class _Connection(asyncio.Protocol):
    """Sends one request at a time and reads its answer by Content-Length."""

    def __init__(self, request: bytes, stop: float, latencies: list[float]) -> None:
        self._request = request
        self._stop = stop
        self._latencies = latencies
        self._buffer = b""
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = self._buffer[:head].lower()
        place = lower.index(b"content-length:") + 15
        size = int(lower[place : (lower + b"\r").index(b"\r", place)])
        if len(self._buffer) < head + 4 + size:
            return
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            self.ended.set_exception(RuntimeError(self._buffer.decode()))
            return
        self._latencies.append(time.perf_counter() - self._sent)
        self._buffer = b""
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error or RuntimeError("the server closed the connection"))

    def _send(self) -> None:
        self._sent = time.perf_counter()
        if self._sent >= self._stop:
            self.ended.set_result(None)
            self._transport.close()
        else:
            self._transport.write(self._request)


def _request(number: int, path: str, body: str, tail: bytes) -> bytes:
    data = body.replace("%d", str(number)).encode()
    kind = "application/json"
    if tail:
        kind = f"application/octet-stream\r\nInference-Header-Content-Length: {len(data)}"
    head = (
        f"POST {path.replace('%d', str(number))} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(data) + len(tail)}\r\n\r\n"
    )
    return head.encode() + data + tail


async def load(
    port: int, num_connections: int, seconds: float, path: str, body: str, tail: bytes
) -> dict:
    latencies: list[float] = []
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    connections = []
    for number in range(num_connections):
        request = _request(number, path, body, tail)

        def connect(request: bytes = request) -> _Connection:
            return _Connection(request, started + seconds, latencies)

        _, connection = await loop.create_connection(connect, "127.0.0.1", port)
        connections.append(connection)
    await asyncio.gather(*(connection.ended for connection in connections))
    elapsed = time.perf_counter() - started
    return {
        "steps_per_s": len(latencies) / elapsed,
        "p50_ms": percentile_ms(latencies, 0.5),
        "p99_ms": percentile_ms(latencies, 0.99),
        "count": len(latencies),
    }


def main() -> None:
    port, num_connections, seconds, path, body, *tail = sys.argv[1:]
    binary = bytes.fromhex("".join(tail))
    answer = uvloop.run(load(int(port), int(num_connections), float(seconds), path, body, binary))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
