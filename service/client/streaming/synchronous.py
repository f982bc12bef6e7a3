"""A session over a WebSocket, for programs with threads."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from service.client.exchange import Answer, Call, Lost
from service.client.json_values import requests_of
from service.client.requests import Observed, Rows, StepReply
from service.client.stream import Stream
from service.client.streaming.pipeline import Dial, Hear, Outcome, Pipeline, Post, WireFlow
from service.client.streaming.wire import BREAKS, Address, broken, refused

T = TypeVar("T")


class SessionStream:
    """Made by `Session.stream()`, to be used in a `with`: leaving it waits for what was sent.

    Replies come in the order of requests. Cuts, restarts and "later" are waited out, as elsewhere.
    """

    def __init__(
        self,
        session: Stream,
        address: Address,
        ask: Callable[[Call], Answer | Lost],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._session = session
        self._pipeline = Pipeline(session)
        self._address = address
        self._ask = ask
        self._sleep = sleep
        self._socket: ClientConnection | None = None
        self._open_socket = ExitStack()
        self._alone = ExitStack()

    def __repr__(self) -> str:
        return f"<SessionStream {self._session.described()} unanswered={self.num_unanswered}>"

    @property
    def num_unanswered(self) -> int:
        """Requests whose replies were not received yet."""
        return self._pipeline.num_unanswered

    def send(self, rows: Rows | None = None, **observed: Unpack[Observed]) -> None:
        """Send the next rows (or `text=`, `tensors=`) without waiting for the reply.

        Waits while as many are in flight as the session keeps replies (`replay` of `open`).
        """
        self._run(self._pipeline.send(rows, **observed))

    def receive(self) -> StepReply:
        """The reply to the oldest request that has none yet; or the refusal of it, raised."""
        return self._run(self._pipeline.receive())

    def step(self, rows: Rows | None = None, **observed: Unpack[Observed]) -> StepReply:
        """Send a request and wait for its reply, where none is unanswered."""
        return self._run(self._pipeline.step(rows, **observed))

    def replies(self, requests: Iterable[Rows]) -> Iterator[StepReply]:
        """The reply to each of many requests of rows, with as many in flight as may be."""
        for rows in requests_of(requests):
            self.send(rows)
            while (reply := self._pipeline.take_ready()) is not None:
                yield reply
        while self.num_unanswered:
            yield self.receive()

    def _run(self, flow: WireFlow[T]) -> T:
        with closing(flow):
            outcome: Outcome = None
            while True:
                try:
                    effect = flow.send(outcome)
                except StopIteration as done:
                    result: T = done.value
                    return result
                outcome = self._ask(effect) if isinstance(effect, Call) else self._do(effect)

    def _do(self, effect: Any) -> Outcome:  # noqa: ANN401 -- an effect that is not a call
        try:
            if isinstance(effect, Dial):
                return self._dial(effect)
            if isinstance(effect, Post):
                for message in effect.messages:
                    self._connected.send(message, text=True)
            elif isinstance(effect, Hear):
                return self._connected.recv(effect.timeout_s, decode=False)
            else:
                self._hang_up()
        except BREAKS as error:
            return broken(error)
        return None

    def _dial(self, dial: Dial) -> Outcome:
        self._hang_up()
        if dial.after_s:
            self._sleep(dial.after_s)
        try:
            opening = connect(
                self._address.url + dial.path, **self._address.options(dial.timeout_s)
            )
            self._socket = self._open_socket.enter_context(opening)
        except InvalidStatus as error:
            return refused(error)
        return self._connected.recv(dial.timeout_s, decode=False)

    @property
    def _connected(self) -> ClientConnection:
        assert self._socket is not None, "the pipeline dials first"
        return self._socket

    def _hang_up(self) -> None:
        self._socket = None
        self._open_socket.close()

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            opening.enter_context(self._session.alone())
            opening.callback(self._hang_up)
            self._run(self._pipeline.begin())
            self._alone = opening.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._alone:
            try:
                if error is None:
                    self._run(self._pipeline.drain())
            finally:
                self._session.abandon(self._pipeline.abandoned())
