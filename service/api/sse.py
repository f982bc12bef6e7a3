"""Server-Sent Events: any stream of them as one answer, kept alive, bounded and ended in time.

Rule 1: a stream counts among `context.open_streams` from when it is made until it ends.
Rule 2: while nothing happens, a comment every `_HEARTBEAT_S` keeps proxies from cutting it, and
        notices clients that left.
Rule 3: it ends with its events, with its client, or when the server is told to stop; clients come
        back by themselves and say by `Last-Event-ID` what they had.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.api.context import Context
from service.api.stream_admission import require_room

_HEARTBEAT_S = 15.0
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(data: object, name: str | None = None, event_id: int | str | None = None) -> bytes:
    """One event, its data as JSON."""
    said = orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    event_id = None if event_id is None else str(event_id)
    return format_sse_event(data_str=said, event=name, id=event_id)


class EventStream(StreamingResponse):
    """Answers `events`, each made by `event`, as long as its client listens.

    Raises:
        TooManyStreamsError: at once, if too many are open.
    """

    media_type = "text/event-stream"

    def __init__(self, context: Context, events: AsyncIterator[bytes]) -> None:
        super().__init__(_kept_alive(events, context), headers=_HEADERS)
        require_room(context, 1)
        self._context = context
        context.open_streams.add(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["is_event_stream"] = True  # for `connection_end.py`: comments mean nothing in it
        self._context.metrics.stream_opened("events")
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._context.metrics.stream_closed("events")
            self._context.open_streams.discard(self)


async def _kept_alive(events: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    stopping = context.stopping
    stop = asyncio.ensure_future(stopping.wait())
    upcoming: asyncio.Future[bytes] | None = None
    try:
        while not stopping.is_set():
            upcoming = upcoming or asyncio.ensure_future(anext(events))
            both: set[asyncio.Future[Any]] = {upcoming, stop}
            await asyncio.wait(both, timeout=_HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if upcoming.done():
                told, upcoming = upcoming, None
                try:
                    yield told.result()
                except StopAsyncIteration:
                    return
                context.metrics.stream_sent("events", 1)
            elif not stop.done():
                yield KEEPALIVE_COMMENT
    finally:
        stop.cancel()
        if upcoming is not None:
            upcoming.cancel()
            await asyncio.wait({upcoming})
        aclose = getattr(events, "aclose", None)
        if aclose is not None:
            await aclose()
