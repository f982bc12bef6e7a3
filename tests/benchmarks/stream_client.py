"""A load generator for streams in a process of its own: closed loop over WebSockets.

    python -m tests.benchmarks.stream_client PORT SOCKETS SESSIONS DEPTH SECONDS BODY

Each of SESSIONS sessions has DEPTH steps under way: over a socket of its own where SOCKETS is as
many, else all over one. Frames are made before; of an answer no more is read than where it ends,
whose it is, and that it is no problem. Prints one line of JSON.
"""

import asyncio
import json
import sys
import time

import uvloop

from tests.benchmarks.figures import percentile_ms

_ANSWER = b'{"session":"'


def _frame(message: dict) -> bytes:
    """Text of 126 bytes to 64 KiB, masked with zeros."""
    payload = json.dumps(message).encode()
    return b"\x81\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload


class _Socket(asyncio.Protocol):
    """Sends a session's next step when one of its steps is answered."""

    def __init__(
        self, path: str, frames: dict[bytes, bytes], depth: int, seconds: float, has_greeting: bool
    ) -> None:
        self._path = path
        self._frames = frames
        self._depth = depth
        self._seconds = seconds
        self._is_greeted = not has_greeting
        self._rest = b""
        self._is_open = False
        self._stop = 0.0
        self._sent: dict[bytes, list[float]] = {name: [] for name in frames}
        self._num_under_way = 0
        self.latencies: list[float] = []
        loop = asyncio.get_running_loop()
        self.ready, self.ended = loop.create_future(), loop.create_future()

    def connection_made(self, transport) -> None:
        self._transport = transport
        transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n".encode()
        )

    def begin(self) -> None:
        now = time.perf_counter()
        self._stop = now + self._seconds
        self._num_under_way = self._depth * len(self._frames)
        for sent in self._sent.values():
            sent += [now] * self._depth
        # By turns: what a session has waiting shall not come before what others begin with.
        self._transport.write(b"".join([*self._frames.values()] * self._depth))

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at = self._read_head(data) if not self._is_open else 0
        if at < 0:
            self._rest = data
            return
        now, out = time.perf_counter(), []
        is_over, end = now >= self._stop, len(data)
        while end - at >= 4:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            if end - start < size:
                break
            if data[at] == 0x81 and not self._is_greeted:
                self._greeted()
            elif data[at] == 0x81:
                if not data.startswith(_ANSWER, start):
                    self._fail(data[start : start + size].decode())
                    return
                name = data[start + 12 : data.index(b'"', start + 12)]
                sent = self._sent[name]
                self.latencies.append(now - sent.pop(0))
                if is_over:
                    self._num_under_way -= 1
                else:
                    sent.append(now)
                    out.append(self._frames[name])
            elif data[at] != 0x89:  # a ping goes unanswered: a measurement is shorter
                self._fail(f"a frame that begins with {data[at : at + 8]!r}")
                return
            at = start + size
        self._rest = data[at:]
        if out:
            self._transport.write(b"".join(out))
        if is_over and self._stop and not self._num_under_way and not self.ended.done():
            self.ended.set_result(None)
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the server closed the connection ({error})")

    def _read_head(self, data: bytes) -> int:
        """Where the head of the answer ends; -1 while more of it is to come."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return -1
        if b" 101 " not in data[: data.index(b"\r\n")]:
            self._fail(data.decode())
        self._is_open = True
        if self._is_greeted:
            self.ready.set_result(None)
        return end + 4

    def _greeted(self) -> None:
        self._is_greeted = True
        self.ready.set_result(None)

    def _fail(self, why: str) -> None:
        for future in (self.ready, self.ended):
            if not future.done():
                future.set_exception(RuntimeError(why))


async def load(
    port: int, num_sockets: int, num_sessions: int, depth: int, seconds: float, body: dict
) -> dict:
    names = [f"s{place}" for place in range(num_sessions)]
    if num_sockets == num_sessions:
        asked = [
            (f"/v1/sessions/{name}/stream", {name.encode(): _frame(body)}, True) for name in names
        ]
    else:
        frames = {name.encode(): _frame({"session": name} | body) for name in names}
        asked = [("/v1/stream", frames, False)]
    loop = asyncio.get_running_loop()
    sockets = []
    for path, frames, has_greeting in asked:
        _, socket = await loop.create_connection(
            lambda path=path, frames=frames, has_greeting=has_greeting: _Socket(
                path, frames, depth, seconds, has_greeting
            ),
            "127.0.0.1",
            port,
        )
        await socket.ready
        sockets.append(socket)
    started, cpu = time.perf_counter(), time.process_time()
    for socket in sockets:
        socket.begin()
    await asyncio.gather(*(socket.ended for socket in sockets))
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    latencies = [each for socket in sockets for each in socket.latencies]
    return {
        "steps_per_s": len(latencies) / elapsed,
        "p50_ms": percentile_ms(latencies, 0.5),
        "p99_ms": percentile_ms(latencies, 0.99),
        "count": len(latencies),
        "cpu_s": cpu,
    }


def main() -> None:
    *numbers, seconds, body = sys.argv[1:]
    port, num_sockets, num_sessions, depth = map(int, numbers)
    loading = load(port, num_sockets, num_sessions, depth, float(seconds), json.loads(body))
    print(json.dumps(uvloop.run(loading)))


if __name__ == "__main__":
    main()
