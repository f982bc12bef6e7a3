"""The client for asyncio. A session belongs to one task at a time.

`make client` writes its twin for threads, `synchronous.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from typing import Any, Literal, Self, TypeVar, Unpack

import httpx

from service.client import requests, session_state, step_many
from service.client.event_stream import (
    Deliver,
    EventFlow,
    SessionEvent,
    Subscribe,
    generate_text,
    is_events,
    watch_session,
)
from service.client.http import failure_of, open_options, response_of, to_httpx
from service.client.problems import UnreachableError
from service.client.requests import Json, Observed, Opening, Options, Rows, StepReply, Writing
from service.client.retry import NoResponse, Request, Response, Retries
from service.client.session_state import RESEND_BYTES, Flow, SessionState
from service.client.step_many import Result
from service.client.streaming.asynchronous import AsyncSessionStream
from service.client.streaming.wire import Address

T = TypeVar("T")


class AsyncClient:
    """Connections to one service.

    `key` is an API key. Each session keeps up to `resend_bytes` of the requests that it sent, to
    send them again if the store fails over and loses them.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        retries: Retries | None = None,
        resend_bytes: int = RESEND_BYTES,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._retries = retries or Retries()
        self._resend_bytes = resend_bytes
        self._sleep = sleep
        self._was_answered = False
        self._url = url
        self._address = Address.of(url, key)
        self._http = httpx.AsyncClient(**open_options(url, key), transport=transport)

    async def open(self, model: str, **opening: Unpack[Opening]) -> "AsyncSession":
        """Open a session, warmed up on `history` if given; `if_exists="resume"` continues it."""
        flow = session_state.open_session(self._retries, self._resend_bytes, model, **opening)
        return AsyncSession(self, await self.run(flow))

    async def predict(
        self, model: str, instances: Iterable[Any], **options: Unpack[Options]
    ) -> list[Json]:
        """Predict each instance, without a session."""
        return await self.run(requests.predict(self._retries, model, instances, **options))

    async def resume(self, session: str) -> "AsyncSession":
        """Continue a session that is already open, from its current step."""
        flow = session_state.resume(self._retries, self._resend_bytes, session)
        return AsyncSession(self, await self.run(flow))

    async def restore(
        self, session: str, snapshot: bytes, *, replace: bool = False
    ) -> "AsyncSession":
        """Open a session from a snapshot of any service; `replace` replaces one that is open."""
        flow = session_state.restore(self._retries, self._resend_bytes, session, snapshot, replace)
        return AsyncSession(self, await self.run(flow))

    async def sessions(self, model: str | None = None) -> AsyncIterator[Json]:
        """All open sessions by name, as the service describes them."""
        cursor: str | None = ""
        while cursor is not None:
            page = await self.run(requests.list_sessions(self._retries, model, cursor))
            for each in page["sessions"]:
                yield each
            cursor = page["next_cursor"]

    async def models(self) -> list[Json]:
        """The served models, with versions and tasks."""
        return await self.run(requests.list_models(self._retries))

    async def ready(self) -> bool:
        """Whether the service is ready: one request, without retries."""
        try:
            response = await self.send(Request("GET", "/readyz", timeout_s=self._retries.timeout_s))
        except UnreachableError:
            return False
        return isinstance(response, Response) and response.status == 200

    def events(self, session: str, *, after: int | None = None) -> AsyncIterator[SessionEvent]:
        """Steps committed to a session by any client, until it ends or you stop iterating.

        The first event is `open`. With `after`, a step, the kept replies after it follow. The
        client reconnects after cuts and restarts; a `gap` names steps that are no longer kept.
        """
        return self.listen(watch_session(self._retries, session, after))

    async def delete(self, session: str) -> None:
        """Close a session by its name."""
        await self.run(requests.close_session(self._retries, session))

    async def step_many(self, asked: Sequence[tuple["AsyncSession", Rows]]) -> list[Result]:
        """Step many sessions in one request; returns the reply or `ProblemError` of each."""
        rows = [(session.protocol, rows) for session, rows in asked]
        return await self.run(step_many.step_sessions(self._retries, rows))

    def stream_of(self, protocol: SessionState) -> AsyncSessionStream:
        """The WebSocket of one session, not connected yet."""
        return AsyncSessionStream(protocol, self._address, self.send, self._sleep)

    async def close(self) -> None:
        """Close the connections. Sessions stay open."""
        await self._http.aclose()

    async def run(self, flow: Flow[T]) -> T:
        """Send the requests that a flow yields, and return its result."""
        with closing(flow):
            outcome: Response | NoResponse | None = None
            while True:
                try:
                    request = next(flow) if outcome is None else flow.send(outcome)
                except StopIteration as done:
                    result: T = done.value
                    return result
                outcome = await self.send(request)

    async def send(self, request: Request) -> Response | NoResponse:
        """Send one request; returns its response, or why there is none."""
        if request.after_s:
            await self._sleep(request.after_s)
        try:
            response = await self._http.send(to_httpx(self._http, request))
        except httpx.TransportError as error:
            return failure_of(error, self._http.base_url, is_first=not self._was_answered)
        self._was_answered = True
        return response_of(response)

    async def listen(self, flow: EventFlow[T]) -> AsyncIterator[T]:
        """Run a flow of events, and yield each value that it delivers."""
        outcome: Any = None
        with closing(flow):
            async with AsyncExitStack() as connection:
                chunks: AsyncIterator[bytes] | None = None
                while True:
                    try:
                        effect = flow.send(outcome)
                    except StopIteration:
                        return
                    outcome = None
                    if isinstance(effect, Deliver):
                        yield effect.value
                    elif isinstance(effect, Request):
                        outcome = await self.send(effect)
                    elif isinstance(effect, Subscribe):
                        await connection.aclose()
                        outcome, chunks = await self._open_events(connection, effect.request)
                    else:
                        outcome = await self._receive(chunks)

    async def _open_events(
        self, connection: AsyncExitStack, request: Request
    ) -> tuple[Response | NoResponse, AsyncIterator[bytes] | None]:
        if request.after_s:
            await self._sleep(request.after_s)
        try:
            response = await self._http.send(to_httpx(self._http, request), stream=True)
            self._was_answered = True
            connection.push_async_callback(response.aclose)
            if response.is_success and is_events(response.headers):
                return Response(response.status_code, response.headers, b""), response.aiter_bytes()
            await response.aread()
        except httpx.TransportError as error:
            failure = failure_of(error, self._http.base_url, is_first=not self._was_answered)
            return failure, None
        return response_of(response), None

    async def _receive(self, chunks: AsyncIterator[bytes] | None) -> bytes | NoResponse | None:
        try:
            return None if chunks is None else await anext(chunks, None)
        except httpx.TransportError as error:
            return failure_of(error, self._http.base_url, is_first=False)

    def __repr__(self) -> str:
        key = "" if self._address.key is None else ", key='…'"
        return f"AsyncClient({self._url!r}{key})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncSession:
    """One session. Each step carries its number, so it is applied exactly once.

    Every operation may raise a `ProblemError`, or `UnansweredError` if its time is up.
    """

    def __init__(self, client: AsyncClient, state: SessionState) -> None:
        self._client = client
        self.protocol = state

    def __repr__(self) -> str:
        return f"<AsyncSession {self.protocol.describe()}>"

    @property
    def name(self) -> str:
        return self.protocol.name

    @property
    def count(self) -> int:
        """The number of observations consumed, according to the last response."""
        return self.protocol.count

    @property
    def prediction(self) -> Json | None:
        """The prediction of the last response."""
        return self.protocol.prediction

    async def step(self, rows: Rows | None = None, **observed: Unpack[Observed]) -> StepReply:
        """Feed the next rows (or `text=`, `tensors=`); returns the committed reply.

        Rows follow the last one without a gap: the time index of a frame is not sent.
        """
        return await self._client.run(self.protocol.step(rows, **observed))

    async def preview(self, rows: Rows | None = None, **observed: Unpack[Observed]) -> StepReply:
        """What `step` would return. The session does not change."""
        return await self._client.run(self.protocol.preview(rows, **observed))

    def stream(self) -> AsyncSessionStream:
        """A WebSocket, for `async with`: many steps in flight, reconnected automatically."""
        return self._client.stream_of(self.protocol)

    async def generate(self, **writing: Unpack[Writing]) -> StepReply:
        """Let the model write text and commit it; it is the reply's `text`."""
        return await self._client.run(self.protocol.generate(**writing))

    def generate_stream(self, **writing: Unpack[Writing]) -> AsyncIterator[str]:
        """As `generate`, but yields the text while it is written; `count` moves at the end.

        If you stop early, the service may still commit the text.
        """
        return self._client.listen(generate_text(self.protocol, **writing))

    def events(self, *, after: int | None = None) -> AsyncIterator[SessionEvent]:
        """Steps committed to it by any client: see `AsyncClient.events`."""
        return self._client.events(self.name, after=after)

    async def rewind(self, step: int) -> None:
        """Go back to a checkpoint and undo later steps; `detail` lists the checkpoints."""
        await self._client.run(self.protocol.rewind(step))

    async def upgrade(
        self, version: str, policy: Literal["carry", "replay"] = "carry", *, force: bool = False
    ) -> Json:
        """Move the session to another version of the model; returns the service's response.

        `force` carries the state over to weights for which it may be meaningless.
        """
        return await self._client.run(self.protocol.upgrade(version, policy, force=force))

    async def detail(self) -> Json:
        """The session as the service describes it: step, expiry, checkpoints and more."""
        return (await self._client.run(self.protocol.read())).body()

    async def snapshot(self) -> bytes:
        """The session as signed bytes, for `restore`."""
        return (await self._client.run(self.protocol.read("/snapshot"))).content

    async def fork(
        self,
        session: str | None = None,
        *,
        ttl_s: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> "AsyncSession":
        """Open another session that starts from the state of this one."""
        forked = await self._client.run(self.protocol.fork(session, ttl_s, metadata))
        return AsyncSession(self._client, forked)

    async def close(self) -> None:
        """Close the session and delete its state."""
        await self._client.run(self.protocol.close())
