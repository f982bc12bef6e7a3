"""uvicorn's HTTP/1.1 protocol, with a short way for steps: no ASGI messages, one write an answer.

Rule 1: a request goes the short way only if it is a plain step: HTTP/1.1 kept alive, its length and
        kind announced and ordinary, its key known, nothing before it on its connection unanswered,
        and the client reading its answers. Any other goes uvicorn's ordinary way, to the same
        application.
Rule 2: to uvicorn, a step is one more request-response cycle (`self.cycle`): pipelined requests
        wait for it, a shutdown lets it finish, and it ends in `on_response_complete`.
Rule 3: a step ends with its answer or with its connection, whichever comes first; work for a client
        that left is dropped by the engine if it has not begun.
Rule 4: what is refused here ends its connection: nothing of it or behind it is begun.
"""

import asyncio
import re
from functools import partial
from typing import Any

from starlette.responses import Response
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from service.api.body_reader import BIG_BODY_BYTES
from service.api.hot_path import HotPath
from service.api.keys import ANYBODY
from service.api.middleware import announced_bytes
from service.api.request_ids import early_problem
from service.errors import (
    CarryError,
    HeadTooLargeError,
    MalformedError,
    SlowRequestError,
    TooManyConnectionsError,
)

_STEPS = re.compile(rb"/v1/sessions/([A-Za-z0-9._~-]{1,128})/steps")
_JSON = frozenset({b"application/json", b"application/json; charset=utf-8"})
_UNUSUAL = frozenset(
    {
        b"content-encoding",
        b"expect",
        b"idempotency-key",
        b"origin",
        b"transfer-encoding",
        b"upgrade",
    }
)


MAX_HEAD_BYTES = 64 * 1024
"""Of a request's line and headers: four times what common proxies let through."""


class _Step:
    """A step on its way, with what uvicorn's protocol asks of a cycle."""

    __slots__ = ("body", "disconnected", "keep_alive", "message_event", "response_complete")

    def __init__(self, message_event: asyncio.Event) -> None:
        self.body = b""
        self.keep_alive = True  # until the server shuts down
        self.response_complete = False
        self.disconnected = False
        self.message_event = message_event


class StepProtocol(HttpToolsProtocol):
    """Serves a `HotPath`; made by uvicorn, one for each connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(self.app, HotPath), "service.app makes nothing else"
        self._begin_step = self.app.begin
        self._admitted = self.app.connections
        self._find_caller = self.app.context.keys.find
        self._nobody_waits = asyncio.Event()
        self._session = ""
        self._caller = ANYBODY
        self._said: dict[bytes, bytes] = {}  # the headers of a step
        self._num_requests = 0  # that have come in whole
        self._is_in_head = False
        self._head_bytes = 0  # of a head that does not come at once
        self._is_refused = False
        self._is_websocket = False
        self._receiving: _Step | None = None
        self._work: asyncio.Future[Any] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._admitted.admit(self):
            most = self._admitted.max_connections
            self._close_with(
                TooManyConnectionsError(
                    f"{most} connections are open, as many as may be: keep fewer, or try again",
                    retry_after_s=1,
                )
            )

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():  # it was refused; what was on its way still comes
            return
        num_requests = self._num_requests
        super().data_received(data)
        # Where a request ended in this read, how much of it is the next one's head is not known.
        if self._is_in_head and self._num_requests == num_requests:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._is_in_head = False
                self._close_with(_head_too_large())

    def handle_websocket_upgrade(self) -> None:
        if self._is_refused:
            return
        self._is_websocket = True  # still counted, until its transport closes
        super().handle_websocket_upgrade()

    # Asked by `Connections`.

    def progress(self) -> object | None:
        if self._is_websocket:
            return None
        if self.flow.write_paused:
            return self.transport.get_write_buffer_size()
        if self.flow.read_paused:
            return None
        cycle = self.cycle
        is_answering = cycle is not None and not cycle.response_complete
        is_whole = self._receiving is None and not getattr(cycle, "more_body", False)
        return None if is_answering and is_whole else (self._num_requests,)

    def close_slow(self) -> None:
        if self._is_in_head or self._receiving is not None:  # nothing is said to it yet
            self._is_in_head, self._receiving = False, None
            self._close_with(SlowRequestError("the request did not come in whole in time"))
        else:
            self.transport.abort()

    # Called by the parser, in this order.

    def on_message_begin(self) -> None:
        if self._is_refused:
            return
        self._is_in_head = True
        self._head_bytes = 0
        # What uvicorn does here waits until it is known whether it is needed.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        if self._is_refused:
            return
        self._is_in_head = False
        num_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if num_bytes > MAX_HEAD_BYTES:
            self._close_with(_head_too_large())
            return
        session = self._session_of_plain_step()
        if session is None:
            self._go_the_ordinary_way()
            return
        self._session = session
        self._receiving = _Step(self._nobody_waits)
        self.cycle = self._receiving  # type: ignore[assignment]  # see rule 2

    def on_body(self, body: bytes) -> None:
        if self._is_refused:
            return
        if self._receiving is None:
            super().on_body(body)
        else:
            self._receiving.body += body

    def on_message_complete(self) -> None:
        if self._is_refused:
            return
        self._num_requests += 1
        if self._receiving is None:
            super().on_message_complete()
        else:
            step, self._receiving = self._receiving, None
            answer = partial(self._answer, step)
            self._work = self._begin_step(
                self._caller, self._session, step.body, self._said, answer
            )

    def shutdown(self) -> None:
        assert isinstance(self.app, HotPath), "checked when it was made"
        self.app.context.stop()
        super().shutdown()

    def send_400_response(self, msg: str) -> None:
        self._close_with(MalformedError("this is no HTTP/1.1 request: see RFC 9112"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._work is not None:
            self._work.cancel()
        self._admitted.remove(self)
        super().connection_lost(exc)

    def _session_of_plain_step(self) -> str | None:
        match = _STEPS.fullmatch(self.url)
        if match is None or self.parser.get_method() != b"POST":
            return None
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"")
        is_plain = (
            len(headers) == len(self.headers)  # none is there twice
            and headers.get(b"content-type") in _JSON
            and length.isdigit()
            and announced_bytes(length) <= BIG_BODY_BYTES
            and _UNUSUAL.isdisjoint(headers)
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
        )
        if not is_plain:
            return None
        caller = self._find_caller(headers.get(b"authorization"))
        if caller is None or caller.limits:  # refused or counted on the ordinary way
            return None
        self._caller, self._said = caller, headers
        return match[1].decode()

    def _go_the_ordinary_way(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)  # this very list is in the scope
        self.expect_100_continue = expects
        super().on_headers_complete()

    def _answer(self, step: _Step, response: Response) -> None:
        self._work = None
        step.response_complete = True
        self.transport.write(self._wire(response, step.keep_alive))
        if not step.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _close_with(self, error: CarryError) -> None:
        if self._is_refused:
            return
        self._is_refused = True
        if self.flow.write_paused:  # the client reads nothing: a close would wait for it for ever
            self.transport.abort()
            return
        self.transport.write(self._wire(early_problem(error), keep_alive=False))
        self.transport.close()

    def _wire(self, response: Response, keep_alive: bool) -> bytes:
        parts = [STATUS_LINE[response.status_code]]
        for name, value in (*self.server_state.default_headers, *response.raw_headers):
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n" if keep_alive else b"connection: close\r\n\r\n", bytes(response.body))
        return b"".join(parts)


def _head_too_large() -> CarryError:
    return HeadTooLargeError(
        f"the line and headers of the request are longer than {MAX_HEAD_BYTES} bytes: send less"
    )
