"""uvicorn's HTTP/1.1 protocol, with a fast path: no ASGI messages, one write for each answer.

Rule 1: a request takes the fast path only if it is plain: a step of `/v1` or an infer of `/v2` by
        HTTP/1.1 kept alive, with ordinary headers, a known key, no unanswered request before it on
        its connection, and a client that reads its answers. Any other takes uvicorn's ordinary way
        to the same application.
Rule 2: to uvicorn, it is one more request-response cycle (`self.cycle`): pipelined requests wait
        for it, a shutdown lets it finish, and it ends in `on_response_complete`.
Rule 3: it ends with its answer or with its connection, whichever comes first; the engine drops
        work for a client that left, if it has not begun.
Rule 4: where a request ends is `connection.py`'s to say, and how a connection ends
        `connection_end.py`'s.
"""

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.responses import Response

from service.api.auth.keys import Caller
from service.api.body_reader.reader import BIG_BODY_BYTES
from service.api.http.connection import MAX_HEAD_BYTES, HttpConnection
from service.api.http.heads import is_host
from service.api.methods import announced_bytes
from service.api.operation import Operation
from service.api.sessions.steps import StepCall
from service.api.v2.infer_call import InferCall

__all__ = ["MAX_HEAD_BYTES", "StepProtocol"]

_STEPS = re.compile(rb"/v1/sessions/([A-Za-z0-9._~-]{1,128})/steps")
_INFER = re.compile(
    rb"/v2/models/([A-Za-z0-9._~-]{1,128})(?:/versions/([A-Za-z0-9._~-]{1,128}))?/infer"
)
_JSON = frozenset({b"application/json", b"application/json; charset=utf-8"})
_TENSORS = _JSON | {b"application/octet-stream", None}
"""Content types of an infer request: its clients send any of these, or none."""
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


Begin = Callable[[bytes], Operation]
"""The operation of a body."""


class _Exchange:
    """An operation and its answer, with what uvicorn's protocol needs of a cycle."""

    __slots__ = (
        "body",
        "disconnected",
        "keep_alive",
        "message_event",
        "response_complete",
        "response_started",
    )

    def __init__(self, message_event: asyncio.Event) -> None:
        self.body = b""
        self.keep_alive = True  # until the server shuts down
        self.response_started = self.response_complete = False
        self.disconnected = False
        self.message_event = message_event


class StepProtocol(HttpConnection):
    """Serves a `FastPath`; made by uvicorn, one for each connection."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 -- as uvicorn has them
        super().__init__(*args, **options)
        self._begin = self.served.begin
        self._context = self.served.context
        self._nobody_waits = asyncio.Event()
        self._operation_of: Begin | None = None
        self._plain_headers: dict[bytes, bytes] = {}
        self._receiving: _Exchange | None = None
        self._work: asyncio.Future[Any] | None = None

    def begin_request(self) -> None:
        self._operation_of = self._plain_operation()
        if self._operation_of is None:
            self._receiving = None
            super().begin_request()
            return
        self._receiving = _Exchange(self._nobody_waits)
        self.cycle = self._receiving  # type: ignore[assignment]  # see rule 2

    def on_body(self, body: bytes) -> None:
        if self._receiving is None or self._is_ending:
            super().on_body(body)
        else:
            self._is_silent = False
            self._receiving.body += body

    def on_message_complete(self) -> None:
        if self._receiving is None or self._is_ending or self._is_upgrade:
            super().on_message_complete()
            return
        self.is_in_body = self._is_silent = False
        self._num_requests += 1
        exchange, self._receiving = self._receiving, None
        assert self._operation_of is not None, "set with `_receiving`"
        operation = self._operation_of(exchange.body)
        answer = partial(self._answer, exchange)
        self._work = self._begin(operation, self._plain_headers, answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._work is not None:
            self._work.cancel()
        super().connection_lost(exc)

    def _plain_operation(self) -> Begin | None:
        step = _STEPS.fullmatch(self.url)
        infer = None if step is not None else _INFER.fullmatch(self.url)
        if (step is None and infer is None) or self.parser.get_method() != b"POST":
            return None
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"")
        is_plain = (
            len(headers) == len(self.headers)  # none is there twice
            and headers.get(b"content-type") in (_TENSORS if step is None else _JSON)
            and length.isdigit()
            and announced_bytes(length) <= BIG_BODY_BYTES
            and _UNUSUAL.isdisjoint(headers)
            and is_host(headers.get(b"host"))
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
        )
        if not is_plain:
            return None
        caller = self._context.keys.find(headers.get(b"authorization"))
        if caller is None or caller.limits:  # refused or counted on the ordinary way
            return None
        self._plain_headers = headers
        if step is not None:
            return partial(StepCall, self._context, caller, step[1].decode())
        assert infer is not None, "one of both"
        return self._infer(infer, caller, headers)

    def _infer(
        self, url: re.Match[bytes], caller: Caller, headers: dict[bytes, bytes]
    ) -> Begin | None:
        json_bytes = headers.get(b"inference-header-content-length")
        if json_bytes is not None and not (json_bytes.isdigit() and len(json_bytes) < 12):
            return None
        name, version = url.groups()
        return partial(
            InferCall.plain,
            self._context,
            caller,
            name.decode(),
            None if version is None else version.decode(),
            None if json_bytes is None else int(json_bytes),
            headers.get(b"accept-encoding", b"").decode("latin-1"),
        )

    def _answer(self, exchange: _Exchange, response: Response) -> None:
        self._work = None
        exchange.response_started = exchange.response_complete = True
        self.transport.write(self.wire(response, exchange.keep_alive))
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()
