"""A session over a WebSocket, for asyncio. `make client` writes its twin for threads."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, ExitStack, closing
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from service.client.requests import Observed, Rows, StepReply
from service.client.retry import NoResponse, Request, Response
from service.client.session_state import SessionState
from service.client.streaming.pipeline import Connect, Outcome, Pipeline, Receive, Send, WireFlow
from service.client.streaming.waiting import each_async, receive_async
from service.client.streaming.wire import BREAKS, Address, failure_of, response_of

T = TypeVar("T")


class AsyncSessionStream:
    """Made by `AsyncSession.stream()`, for `async with`: leaving it waits for all replies.

    Replies arrive in the order of requests. Retries after a cut, a restart and an overload.
    """

    def __init__(
        self,
        session: SessionState,
        address: Address,
        send_http: Callable[[Request], Awaitable[Response | NoResponse]],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._session = session
        self._pipeline = Pipeline(session)
        self._address = address
        self._send_http = send_http
        self._sleep = sleep
        self._socket: ClientConnection | None = None
        self._open_socket = AsyncExitStack()
        self._exclusive = ExitStack()

    def __repr__(self) -> str:
        return f"<AsyncSessionStream {self._session.describe()} unanswered={self.num_unanswered}>"

    @property
    def num_unanswered(self) -> int:
        """Requests without a reply."""
        return self._pipeline.num_unanswered

    async def send(self, rows: Rows | None = None, **observed: Unpack[Observed]) -> None:
        """Send the next rows (or `text=`, `tensors=`) without waiting for the reply.

        Waits while the number in flight is that of the session's kept replies (`replay`).
        """
        await self._run(self._pipeline.send(rows, **observed))

    async def receive(self) -> StepReply:
        """The reply to the oldest request without one; raises the error of that request."""
        return await self._run(self._pipeline.receive())

    async def step(self, rows: Rows | None = None, **observed: Unpack[Observed]) -> StepReply:
        """Send a request and wait for its reply; no other may be without one."""
        return await self._run(self._pipeline.step(rows, **observed))

    async def replies(
        self, requests: Iterable[Rows] | AsyncIterable[Rows]
    ) -> AsyncIterator[StepReply]:
        """The reply to each of many requests, with as many in flight as possible."""
        async for rows in each_async(requests):
            await self.send(rows)
            while (reply := self._pipeline.take_ready()) is not None:
                yield reply
        while self.num_unanswered:
            yield await self.receive()

    async def _run(self, flow: WireFlow[T]) -> T:
        with closing(flow):
            outcome: Outcome = None
            while True:
                try:
                    effect = flow.send(outcome)
                except StopIteration as done:
                    result: T = done.value
                    return result
                if isinstance(effect, Request):
                    outcome = await self._send_http(effect)
                else:
                    outcome = await self._do(effect)

    async def _do(self, effect: Any) -> Outcome:  # noqa: ANN401 -- an effect that is not a request
        try:
            if isinstance(effect, Connect):
                return await self._connect(effect)
            if isinstance(effect, Send):
                for message in effect.messages:
                    await self._connected.send(message, text=True)
            elif isinstance(effect, Receive):
                return await receive_async(self._connected, effect.timeout_s)
            else:
                await self._disconnect()
        except BREAKS as error:
            return failure_of(error)
        return None

    async def _connect(self, request: Connect) -> Outcome:
        await self._disconnect()
        if request.after_s:
            await self._sleep(request.after_s)
        url = self._address.url + request.path
        try:
            connection = connect(url, **self._address.options(request.timeout_s))
            self._socket = await self._open_socket.enter_async_context(connection)
        except InvalidStatus as error:
            return response_of(error)
        return await receive_async(self._connected, request.timeout_s)

    @property
    def _connected(self) -> ClientConnection:
        assert self._socket is not None, "the pipeline connects first"
        return self._socket

    async def _disconnect(self) -> None:
        self._socket = None
        await self._open_socket.aclose()

    async def __aenter__(self) -> Self:
        with ExitStack() as connection:
            connection.enter_context(self._session.exclusive())
            try:
                await self._run(self._pipeline.begin())
            except BaseException:
                await self._disconnect()
                raise
            self._exclusive = connection.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._exclusive:
            try:
                if error is None:
                    await self._run(self._pipeline.drain())
            finally:
                self._session.abandon(self._pipeline.unanswered())
                await self._disconnect()
