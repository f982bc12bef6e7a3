"""A dumb HTTP proxy: each request goes to the next server, whoever it is of and whatever for.

One that does not answer makes a 502, which says nothing of what became of the request.
"""

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from urllib.parse import urlsplit

BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def round_robin(urls: Sequence[str]):
    """The URL of a proxy in front of these."""
    turns = cycle([(urlsplit(url).hostname, urlsplit(url).port) for url in urls])
    tasks = set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        behind = {}
        try:
            while True:
                request = await _message(reader)
                writer.write(await _answer(request, next(turns), behind))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            tasks.discard(asyncio.current_task())
            for _, there in behind.values():
                there.close()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _answer(request, place, behind):
    try:
        if place not in behind:
            behind[place] = await asyncio.open_connection(*place)
        reader, writer = behind[place]
        writer.write(request)
        return await _message(reader)
    except (OSError, asyncio.IncompleteReadError):
        if place in behind:
            behind.pop(place)[1].close()
        return BAD_GATEWAY


async def _message(reader):
    """A request or an answer, whole."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.partition(b":")[2]))
    return head
