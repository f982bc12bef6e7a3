"""What is being written, as server-sent events, a character at a time.

    text      {"index", "text"}   the next characters (of instance `index`, 0 for a session)
    restart   {"index"}           another writer was first: what this one heard so far is void
    done      the answer, as it is without a stream; only now is it committed
    error     a problem document; nothing was applied unless it says otherwise

An error before the first character is an ordinary answer with its status.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Annotated, Any, NamedTuple

import orjson
from fastapi import Header, Response

from service.api.context import Context
from service.api.events.sse import EventStream, event
from service.api.problems import carry_problem
from service.api.stream_admission import require_room
from service.errors import CarryError

MEDIA_TYPE = EventStream.media_type
InAccept = Annotated[
    str, Header(description=f"`{MEDIA_TYPE}`: what is written comes as events, as it is written.")
]


class Answer(NamedTuple):
    """The whole answer, and what was written for each instance: a replay is not heard again."""

    response: Response
    texts: list[str]


class TokenStream:
    """Events of one request, bounded by the characters that it may have written.

    Whoever streams it owns it; a listener of the engine puts in.
    """

    def __init__(self) -> None:
        self.events: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.has_heard = False

    def listener(self, index: int) -> "TokenListener":
        return TokenListener(self, index)

    # What is said of it; under `/v2` otherwise.

    def said(self, index: int, text: str) -> bytes:
        """The event of the next characters."""
        return event({"index": index, "text": text}, "text")

    def restarted(self, index: int) -> None:
        """Another writer was first: what was heard is void."""
        self.events.put_nowait(event({"index": index}, "restart"))

    def last_of(self, answer: Answer) -> list[bytes]:
        """The events behind all characters."""
        texts = [] if self.has_heard else answer.texts
        told = [self.said(index, text) for index, text in enumerate(texts)]
        return [*told, event(orjson.loads(answer.response.body), "done")]

    def failed(self, error: CarryError) -> bytes:
        """The last event, where it failed behind the first character."""
        return event(orjson.loads(carry_problem(error).body), "error")


class TokenListener:
    """The engine's listener for one instance."""

    def __init__(self, heard: TokenStream, index: int) -> None:
        self._heard = heard
        self._index = index
        self._has_written = False

    def began(self) -> None:
        if self._has_written:
            self._heard.restarted(self._index)
            self._has_written = False

    def wrote(self, text: str) -> None:
        self._has_written = self._heard.has_heard = True
        self._heard.events.put_nowait(self._heard.said(self._index, text))


async def stream(
    context: Context, answering: Coroutine[Any, Any, Answer], heard: TokenStream
) -> Response:
    """Answer with a stream. A client that leaves ends what is not committed yet.

    Raises:
        CarryError: it failed before anything was written, or too many streams are open.
    """
    task = asyncio.create_task(answering)
    task.add_done_callback(lambda _: heard.events.put_nowait(None))
    try:
        require_room(context, 1)
        first = await heard.events.get()
        replayed = None
        if first is None:
            replayed = task.result().response.headers.get("Idempotent-Replayed")
        response = EventStream(context, _events(first, task, heard))
    except BaseException:
        task.cancel()
        raise
    if replayed:
        response.headers["Idempotent-Replayed"] = replayed
    return response


async def _events(
    first: bytes | None, task: "asyncio.Task[Answer]", heard: TokenStream
) -> AsyncIterator[bytes]:
    try:
        upcoming = first
        while upcoming is not None:
            yield upcoming
            upcoming = await heard.events.get()
        for last in _last(task, heard):
            yield last
    finally:
        task.cancel()


def _last(task: "asyncio.Task[Answer]", heard: TokenStream) -> list[bytes]:
    try:
        return heard.last_of(task.result())
    except CarryError as error:
        return [heard.failed(error)]
