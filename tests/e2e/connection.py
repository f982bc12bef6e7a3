"""A lean HTTP/1.1 connection: one JSON request at a time, the answer read by Content-Length.

A test of faults sends tens of thousands of requests beside the server, on the same two cores.
"""

import asyncio
import json
from typing import NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)


class Connection(asyncio.Protocol):
    """Kept alive; connects at the first request and again after it was cut."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[Answer] | None = None

    async def request(self, method: str, path: str, body: object, timeout_s: float) -> Answer:
        """Send one request and read its answer.

        Raises:
            OSError: refused, cut, or no answer in time (TimeoutError); the connection is closed,
                so that a late answer cannot be taken for that of the next request.
        """
        data = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        try:
            async with asyncio.timeout(timeout_s):
                loop = asyncio.get_running_loop()
                if self._transport is None:
                    await loop.create_connection(lambda: self, self._host, self._port)
                self._answer = loop.create_future()
                self._transport.write(head.encode() + data)
                return await self._answer
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._transport, self._buffer, self._answer = None, b"", None

    def connection_made(self, transport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        answer = self._answer
        self._transport = None
        if answer is not None and not answer.done():
            answer.set_exception(error or ConnectionResetError("closed without an answer"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        size = int(headers.get("content-length", 0))
        if len(body) < size:
            return
        self._buffer = body[size:]
        if headers.get("connection") == "close":
            self._transport.close()
            self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(int(status.split(" ")[1]), headers, body[:size]))
