# Written by `make client` from asynchronous.py: change that file.
"""A session over a WebSocket, for threads."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from service.client.requests import Observed, Rows, StepReply
from service.client.retry import NoResponse, Request, Response
from service.client.session_state import SessionState
from service.client.streaming.pipeline import Connect, Outcome, Pipeline, Receive, Send, WireFlow
from service.client.streaming.waiting import each, receive
from service.client.streaming.wire import BREAKS, Address, failure_of, response_of

T = TypeVar("T")


class SessionStream:
    """Made by `Session.stream()`, for `with`: leaving it waits for all replies.

    Replies arrive in the order of requests. Retries after a cut, a restart and an overload.
    """

    def __init__(
        self,
        session: SessionState,
        address: Address,
        send_http: Callable[[Request], Response | NoResponse],
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._session = session
        self._pipeline = Pipeline(session)
        self._address = address
        self._send_http = send_http
        self._sleep = sleep
        self._socket: ClientConnection | None = None
        self._open_socket = ExitStack()
        self._exclusive = ExitStack()

    def __repr__(self) -> str:
        return f"<SessionStream {self._session.describe()} unanswered={self.num_unanswered}>"

    @property
    def num_unanswered(self) -> int:
        """Requests without a reply."""
        return self._pipeline.num_unanswered

    def send(self, rows: Rows | None = None, **observed: Unpack[Observed]) -> None:
        """Send the next rows (or `text=`, `tensors=`) without waiting for the reply.

        Waits while the number in flight is that of the session's kept replies (`replay`).
        """
        self._run(self._pipeline.send(rows, **observed))

    def receive(self) -> StepReply:
        """The reply to the oldest request without one; raises the error of that request."""
        return self._run(self._pipeline.receive())

    def step(self, rows: Rows | None = None, **observed: Unpack[Observed]) -> StepReply:
        """Send a request and wait for its reply; no other may be without one."""
        return self._run(self._pipeline.step(rows, **observed))

    def replies(self, requests: Iterable[Rows]) -> Iterator[StepReply]:
        """The reply to each of many requests, with as many in flight as possible."""
        for rows in each(requests):
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
                if isinstance(effect, Request):
                    outcome = self._send_http(effect)
                else:
                    outcome = self._do(effect)

    def _do(self, effect: Any) -> Outcome:  # noqa: ANN401 -- an effect that is not a request
        try:
            if isinstance(effect, Connect):
                return self._connect(effect)
            if isinstance(effect, Send):
                for message in effect.messages:
                    self._connected.send(message, text=True)
            elif isinstance(effect, Receive):
                return receive(self._connected, effect.timeout_s)
            else:
                self._disconnect()
        except BREAKS as error:
            return failure_of(error)
        return None

    def _connect(self, request: Connect) -> Outcome:
        self._disconnect()
        if request.after_s:
            self._sleep(request.after_s)
        url = self._address.url + request.path
        try:
            connection = connect(url, **self._address.options(request.timeout_s))
            self._socket = self._open_socket.enter_context(connection)
        except InvalidStatus as error:
            return response_of(error)
        return receive(self._connected, request.timeout_s)

    @property
    def _connected(self) -> ClientConnection:
        assert self._socket is not None, "the pipeline connects first"
        return self._socket

    def _disconnect(self) -> None:
        self._socket = None
        self._open_socket.close()

    def __enter__(self) -> Self:
        with ExitStack() as connection:
            connection.enter_context(self._session.exclusive())
            try:
                self._run(self._pipeline.begin())
            except BaseException:
                self._disconnect()
                raise
            self._exclusive = connection.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._exclusive:
            try:
                if error is None:
                    self._run(self._pipeline.drain())
            finally:
                self._session.abandon(self._pipeline.unanswered())
                self._disconnect()
