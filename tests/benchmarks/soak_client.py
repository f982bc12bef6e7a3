"""Sessions that come, are stepped for a while, and go: a client in one event loop."""

import asyncio
import itertools
import json
import random
import time
from collections import Counter

LIFE_STEPS = (20, 400)
TTL_S = 60.0


class Wire:
    """One keep-alive connection, one request at a time; connects again when it was closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        kind = "Content-Type: application/json\r\n" if body else ""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: soak\r\n{kind}Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            self._writer.write(head.encode() + body)
            answered = await self._reader.readuntil(b"\r\n\r\n")
        except (ConnectionError, asyncio.IncompleteReadError):
            self.close()  # idle for longer than the server keeps one: nothing of ours was under way
            return await self.ask(method, path, body)
        lower = answered.lower()
        place = lower.find(b"content-length:")
        size = int(lower[place + 15 : lower.index(b"\r", place)]) if place >= 0 else 0
        return int(answered[9:12]), await self._reader.readexactly(size)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Load:
    """Connections with a session each. Those that wait for work are bounded by their number."""

    def __init__(self, port: int, model: str, step_body: bytes) -> None:
        self._model, self._step_body = model, step_body
        self._port = port
        self._names = map("soak-{}".format, itertools.count())
        self._random = random.Random(0)
        self._latencies: list[float] = []
        self._watcher = Wire(port)
        self.statuses: Counter[int] = Counter()
        self.num_opened = 0

    async def connect(self, num_connections: int) -> None:
        self._clients = [_Client(self, self._port) for _ in range(num_connections)]
        for client in self._clients:
            await client.open_session()

    async def close(self) -> None:
        for client in self._clients:
            client.wire.close()
        self._watcher.close()

    async def get(self, path: str) -> tuple[int, bytes]:
        return await self._watcher.ask("GET", path)

    def take_latencies(self) -> list[float]:
        """Of the steps answered since the last call, in seconds."""
        taken, self._latencies = self._latencies, []
        return taken

    async def closed_loop(self, seconds: float) -> float:
        """Steps a second when each client sends its next step at once."""
        stop = time.perf_counter() + seconds

        async def run(client: "_Client") -> None:
            while time.perf_counter() < stop:
                await client.step(time.perf_counter())

        await asyncio.gather(*map(run, self._clients))
        return len(self.take_latencies()) / seconds

    async def open_loop(self, per_s: float, seconds: float) -> None:
        """A step is due every 1/per_s seconds; its latency counts from then."""
        due: asyncio.Queue[float] = asyncio.Queue()
        clients = [asyncio.create_task(self._serve(due, client)) for client in self._clients]
        started = time.perf_counter()
        for place in range(int(per_s * seconds)):
            at = started + place / per_s
            if (early := at - time.perf_counter()) > 0.001:
                await asyncio.sleep(early)
            due.put_nowait(at)
        await due.join()
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _serve(self, due: asyncio.Queue[float], client: "_Client") -> None:
        while True:
            at = await due.get()
            try:
                await client.step(at)
            finally:
                due.task_done()

    async def opened(self, wire: Wire) -> str:
        name = next(self._names)
        body = {"model": self._model, "session": name, "ttl_s": TTL_S}
        status, answer = await wire.ask("POST", "/v1/sessions", json.dumps(body).encode())
        assert status == 201, answer
        self.num_opened += 1
        return name

    def life(self) -> int:
        return self._random.randint(*LIFE_STEPS)

    def is_deleted(self) -> bool:
        return self._random.random() < 0.5

    async def stepped(self, wire: Wire, name: str, due: float) -> None:
        path = f"/v1/sessions/{name}/steps"
        status, answer = await wire.ask("POST", path, self._step_body)
        self.statuses[status] += 1
        assert status in (200, 429), answer
        self._latencies.append(time.perf_counter() - due)


class _Client:
    """One connection and the session that it has now."""

    def __init__(self, load: Load, port: int) -> None:
        self._load = load
        self.wire = Wire(port)

    async def open_session(self) -> None:
        self._name = await self._load.opened(self.wire)
        self._left = self._load.life()

    async def step(self, due: float) -> None:
        await self._load.stepped(self.wire, self._name, due)
        self._left -= 1
        if self._left == 0:
            if self._load.is_deleted():
                status, answer = await self.wire.ask("DELETE", f"/v1/sessions/{self._name}")
                assert status < 300, answer
            await self.open_session()
