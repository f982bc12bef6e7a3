"""A WebSocket client that costs little, so that what is measured or tried is the server.

It sends text of less than 64 KiB, masked with zeros, and reads whole unmasked frames; nothing else.
"""

import asyncio
from collections import deque


class LeanSocket:
    """Made by `open_socket`. `recv` raises EOFError when the server is gone or closes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._data = b""
        self._frames: deque[bytes] = deque()

    def send(self, payload: bytes) -> None:
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        self.writer.write(b"\x81" + length + b"\0\0\0\0" + payload)

    async def recv(self) -> bytes:
        while not self._frames:
            more = await self.reader.read(1 << 16)
            if not more:
                raise EOFError("the server closed the connection")
            self._data += more
            self._split()
        return self._frames.popleft()

    def abort(self) -> None:
        self.writer.transport.abort()

    def _split(self) -> None:
        data, at = self._data, 0
        while len(data) - at >= 2:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(data[start : start + 2], "big"), start + 2
            elif size == 127:
                size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
            if len(data) < start + size:
                break
            if data[at] == 0x88:
                raise EOFError(f"the server closed: {data[start + 2 : start + size].decode()}")
            payload = data[start : start + size]
            if data[at] == 0x81:
                self._frames.append(payload)
            elif data[at] == 0x89:
                self.writer.write(b"\x8a" + bytes([0x80 | size]) + b"\0\0\0\0" + payload)
            at = start + size
        self._data = data[at:]


async def open_socket(port: int, path: str) -> LeanSocket:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head.split(b"\r\n")[0], head
    return LeanSocket(reader, writer)
