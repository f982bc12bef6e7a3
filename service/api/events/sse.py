"""Server-Sent Events: any stream of them as one answer, kept alive, bounded and ended in time.

Rule 1: a stream counts among `context.open_streams` from when it is made until it ends.
Rule 2: while nothing happens, a comment every `_HEARTBEAT_S` keeps proxies from cutting it, and
        notices clients that left.
Rule 3: it ends with its events or with its client. When the server is told to stop, events that
        end by themselves go on for CARRY_SHUTDOWN_GRACE_S, at whose end the engine fails what they
        wait for; endless ones end with what is there already, and clients come back by themselves
        and say by `Last-Event-ID` what they had.
Rule 4: a HEAD is answered by its headers, and the events are not begun.
Rule 5: when its key is revoked, has expired or was changed, what makes the events is ended first,
        then an `error` is the last event. A client that does not read is cut off.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.api.context import Context
from service.api.methods import IS_HEAD
from service.api.problems import problem_of
from service.api.stream_admission import require_room
from service.errors import UnauthenticatedError

_HEARTBEAT_S = 15.0
_LAST_WORD_S = 0.5
"""For a client to read what it is still sent when its key is gone."""
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(data: object, name: str | None = None, event_id: int | str | None = None) -> bytes:
    """One event, its data as JSON."""
    said = orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    event_id = None if event_id is None else str(event_id)
    return format_sse_event(data_str=said, event=name, id=event_id)


class EventStream(StreamingResponse):
    """Answers `events`, each made by `event`, as long as its client listens.

    `is_endless`: they do not end by themselves, so that a shutdown ends them.

    Raises:
        TooManyStreamsError: at once, if too many are open.
    """

    media_type = "text/event-stream"

    def __init__(
        self, context: Context, events: AsyncIterator[bytes], *, is_endless: bool = False
    ) -> None:
        self._key_gone = asyncio.Event()
        self._events = _kept_alive(events, context, self._key_gone, is_endless)
        super().__init__(self._events, headers=_HEADERS)
        require_room(context, 1)
        self._context = context
        context.open_streams.add(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["is_event_stream"] = True  # for `http/connection_end.py`: comments mean nothing in it
        if IS_HEAD in scope:
            self._context.open_streams.discard(self)
            headers = self.raw_headers
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        self._context.metrics.stream_opened("events")
        try:
            async with asyncio.timeout(None) as limit:
                with self._watching_key(scope, limit):
                    await super().__call__(scope, receive, send)
        except TimeoutError:
            if not self._key_gone.is_set():
                raise
        finally:
            await self._events.aclose()
            self._context.metrics.stream_closed("events")
            self._context.open_streams.discard(self)

    @contextmanager
    def _watching_key(self, scope: Scope, limit: asyncio.Timeout) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def end() -> None:
            self._key_gone.set()
            limit.reschedule(loop.time() + _LAST_WORD_S)

        said = [value for name, value in scope["headers"] if name == b"authorization"]
        watch = self._context.key_watch
        watched = watch.watch(said[0] if len(said) == 1 else None, scope["caller"], end)
        try:
            yield
        finally:
            watch.unwatch(watched)


async def _kept_alive(
    events: AsyncIterator[bytes], context: Context, key_gone: asyncio.Event, is_endless: bool
) -> AsyncGenerator[bytes]:
    stop = asyncio.ensure_future(context.stopping.wait()) if is_endless else None
    gone = asyncio.ensure_future(key_gone.wait())
    upcoming: asyncio.Future[bytes] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(anext(events))
            awaited: set[asyncio.Future[Any]] = {upcoming, gone}
            if stop is not None:
                awaited.add(stop)
            await asyncio.wait(awaited, timeout=_HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if key_gone.is_set():
                break
            if upcoming.done():
                told, upcoming = upcoming, None
                try:
                    yield told.result()
                except StopAsyncIteration:
                    return
                context.metrics.stream_sent("events", 1)
            elif stop is not None and stop.done():
                return
            else:
                yield KEEPALIVE_COMMENT
    finally:
        gone.cancel()
        if stop is not None:
            stop.cancel()
        if upcoming is not None:
            upcoming.cancel()
            await asyncio.wait({upcoming})
        aclose = getattr(events, "aclose", None)
        if aclose is not None:
            await aclose()
    if key_gone.is_set():
        yield event(problem_of(_key_gone_error(), "a stream"), "error")


def _key_gone_error() -> UnauthenticatedError:
    return UnauthenticatedError(
        "expected the key that the stream was opened with, and it was revoked, has expired or was"
        " changed: ask again with a valid one"
    )
