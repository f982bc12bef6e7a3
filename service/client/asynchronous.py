"""The client for asyncio. A session belongs to one task at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from service.client import requests, stream
from service.client.exchange import Answer, Call, Lost, Retries
from service.client.http import answer_of, lost, open_options, request_of
from service.client.requests import Json, Observed, Opening, Options, Row, StepReply
from service.client.stream import RESEND_BYTES, Flow, Stream

T = TypeVar("T")


class AsyncClient:
    """Connections to one service.

    `key` is an API key. `resend_bytes` of what each session was fed are kept, in case that a store
    fails over and loses them.
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
        self._http = httpx.AsyncClient(**open_options(url, key), transport=transport)

    async def open(self, model: str, **opening: Unpack[Opening]) -> "AsyncSession":
        """A session, warmed up on `history` where there is one; `if_exists="resume"` goes on."""
        flow = stream.opened(self._retries, self._resend_bytes, model, **opening)
        return AsyncSession(self, await self.run(flow))

    async def predict(
        self, model: str, instances: Sequence[Mapping[str, Any]], **options: Unpack[Options]
    ) -> list[Json]:
        """One prediction for each instance, without a session."""
        return await self.run(requests.predicted(self._retries, model, instances, **options))

    async def close(self) -> None:
        """Close the connections. Sessions stay."""
        await self._http.aclose()

    async def run(self, flow: Flow[T]) -> T:
        """Send what a flow asks for until it comes to something."""
        with closing(flow):
            outcome: Answer | Lost | None = None
            while True:
                try:
                    call = next(flow) if outcome is None else flow.send(outcome)
                except StopIteration as done:
                    result: T = done.value
                    return result
                outcome = await self._send(call)

    async def _send(self, call: Call) -> Answer | Lost:
        if call.after_s:
            await self._sleep(call.after_s)
        try:
            return answer_of(await self._http.send(request_of(self._http, call)))
        except httpx.TransportError as error:
            return lost(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class AsyncSession:
    """One session. Its steps number themselves and are applied exactly once.

    Every operation may raise a `ProblemError`, or `UnansweredError` when its time was up.
    """

    def __init__(self, client: AsyncClient, stream: Stream) -> None:
        self._client = client
        self._stream = stream

    @property
    def name(self) -> str:
        return self._stream.name

    @property
    def count(self) -> int:
        """How many observations it has consumed, by the last answer."""
        return self._stream.count

    @property
    def prediction(self) -> Json | None:
        """The last one that was answered."""
        return self._stream.prediction

    async def step(
        self, rows: Sequence[Row] | None = None, **observed: Unpack[Observed]
    ) -> StepReply:
        """Feed the next rows (or `text=`, `tensors=`); the prediction after them, committed."""
        return await self._client.run(self._stream.step(rows, **observed))

    async def preview(
        self, rows: Sequence[Row] | None = None, **observed: Unpack[Observed]
    ) -> StepReply:
        """What `step` would answer. The session stays as it is."""
        return await self._client.run(self._stream.preview(rows, **observed))

    async def fork(
        self,
        session: str | None = None,
        *,
        ttl_s: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> "AsyncSession":
        """A session of its own that goes on from here."""
        forked = await self._client.run(self._stream.fork(session, ttl_s, metadata))
        return AsyncSession(self._client, forked)

    async def close(self) -> None:
        """End the session and drop its state."""
        await self._client.run(self._stream.close())
