"""A session over a WebSocket, for asyncio."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, ExitStack, closing
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from service.client.exchange import Answer, Call, Lost
from service.client.json_values import requests_of
from service.client.requests import Observed, Rows, StepReply
from service.client.stream import Stream
from service.client.streaming.pipeline import Dial, Hear, Outcome, Pipeline, Post, WireFlow
from service.client.streaming.wire import BREAKS, Address, broken, refused

T = TypeVar("T")


class AsyncSessionStream:
    """Made by `AsyncSession.stream()`, to be used in an `async with`: as `SessionStream`."""

    def __init__(
        self,
        session: Stream,
        address: Address,
        ask: Callable[[Call], Awaitable[Answer | Lost]],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._session = session
        self._pipeline = Pipeline(session)
        self._address = address
        self._ask = ask
        self._sleep = sleep
        self._socket: ClientConnection | None = None
        self._open_socket = AsyncExitStack()
        self._alone = ExitStack()

    def __repr__(self) -> str:
        return f"<AsyncSessionStream {self._session.described()} unanswered={self.num_unanswered}>"

    @property
    def num_unanswered(self) -> int:
        """Requests whose replies were not received yet."""
        return self._pipeline.num_unanswered

    async def send(self, rows: Rows | None = None, **observed: Unpack[Observed]) -> None:
        """Send the next rows (or `text=`, `tensors=`) without waiting for the reply.

        Waits while as many are in flight as the session keeps replies (`replay` of `open`).
        """
        await self._run(self._pipeline.send(rows, **observed))

    async def receive(self) -> StepReply:
        """The reply to the oldest request that has none yet; or the refusal of it, raised."""
        return await self._run(self._pipeline.receive())

    async def step(self, rows: Rows | None = None, **observed: Unpack[Observed]) -> StepReply:
        """Send a request and wait for its reply, where none is unanswered."""
        return await self._run(self._pipeline.step(rows, **observed))

    async def replies(
        self, requests: Iterable[Rows] | AsyncIterable[Rows]
    ) -> AsyncIterator[StepReply]:
        """The reply to each of many requests of rows, with as many in flight as may be."""
        async for rows in _awaited(requests):
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
                if isinstance(effect, Call):
                    outcome = await self._ask(effect)
                else:
                    outcome = await self._do(effect)

    async def _do(self, effect: Any) -> Outcome:  # noqa: ANN401 -- an effect that is not a call
        try:
            if isinstance(effect, Dial):
                return await self._dial(effect)
            if isinstance(effect, Post):
                for message in effect.messages:
                    await self._connected.send(message, text=True)
            elif isinstance(effect, Hear):
                return await self._heard(effect.timeout_s)
            else:
                await self._hang_up()
        except BREAKS as error:
            return broken(error)
        return None

    async def _dial(self, dial: Dial) -> Outcome:
        await self._hang_up()
        if dial.after_s:
            await self._sleep(dial.after_s)
        url = self._address.url + dial.path
        try:
            opening = connect(url, **self._address.options(dial.timeout_s))
            self._socket = await self._open_socket.enter_async_context(opening)
        except InvalidStatus as error:
            return refused(error)
        return await self._heard(dial.timeout_s)

    async def _heard(self, timeout_s: float) -> bytes:
        async with asyncio.timeout(timeout_s):
            return await self._connected.recv(decode=False)

    @property
    def _connected(self) -> ClientConnection:
        assert self._socket is not None, "the pipeline dials first"
        return self._socket

    async def _hang_up(self) -> None:
        self._socket = None
        await self._open_socket.aclose()

    async def __aenter__(self) -> Self:
        with ExitStack() as opening:
            opening.enter_context(self._session.alone())
            try:
                await self._run(self._pipeline.begin())
            except BaseException:
                await self._hang_up()
                raise
            self._alone = opening.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._alone:
            try:
                if error is None:
                    await self._run(self._pipeline.drain())
            finally:
                self._session.abandon(self._pipeline.abandoned())
                await self._hang_up()


async def _awaited(
    requests: Iterable[Rows] | AsyncIterable[Rows],
) -> AsyncIterator[Rows]:
    if isinstance(requests, AsyncIterable):
        async for rows in requests:
            yield rows
    else:
        for rows in requests_of(requests):
            yield rows
