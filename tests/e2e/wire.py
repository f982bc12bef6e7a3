"""A TCP connection that can go wrong between a client and a server, both of which live on."""

import asyncio
from contextlib import asynccontextmanager

_CHUNK_BYTES = 65536


class Wire:
    """Forwards to a port, until told otherwise.

    `swallow`: requests arrive and are carried out, but answers are lost; `cut`: every connection is
    closed. `is_down`: new ones are closed at once.
    """

    def __init__(self, port):
        self.port = 0
        self.is_swallowing = self.is_down = False
        self.has_swallowed = asyncio.Event()
        self._to = port
        self._writers = set()
        self._tasks = set()
        self._server = None

    def cut(self):
        for writer in list(self._writers):
            writer.transport.abort()

    async def start(self, tls):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self):
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self._writers.add(writer)
        try:
            if self.is_down:
                return
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._to)
            self._writers.add(to_server)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._forward(reader, to_server, is_answer=False))
                    tasks.create_task(self._forward(from_server, writer, is_answer=True))
            except* (OSError, EOFError):
                pass
            finally:
                self._writers.discard(to_server)
                to_server.transport.abort()
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()
            self._tasks.discard(asyncio.current_task())

    async def _forward(self, reader, writer, *, is_answer):
        while data := await reader.read(_CHUNK_BYTES):
            if is_answer and self.is_swallowing:
                self.has_swallowed.set()
                continue
            writer.write(data)
            await writer.drain()
        raise EOFError  # the other direction ends as well


@asynccontextmanager
async def wire_to(port, tls=None):
    """`tls`: the SSLContext that clients are met with; what is behind is not encrypted."""
    wire = Wire(port)
    await wire.start(tls)
    try:
        yield wire
    finally:
        await wire.close()
