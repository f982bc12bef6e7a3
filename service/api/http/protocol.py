"""uvicorn's HTTP/1.1 protocol, with a fast path for steps: no ASGI messages, one write an answer.

Rule 1: a request goes the fast path only if it is a plain step: HTTP/1.1 kept alive, its length and
        kind announced and ordinary, its key known, nothing before it on its connection unanswered,
        and the client reading its answers. Any other goes uvicorn's ordinary way, to the same
        application.
Rule 2: to uvicorn, a step is one more request-response cycle (`self.cycle`): pipelined requests
        wait for it, a shutdown lets it finish, and it ends in `on_response_complete`.
Rule 3: a step ends with its answer or with its connection, whichever comes first; work for a client
        that left is dropped by the engine if it has not begun.
Rule 4: where a request ends is `connection.py`'s to say, and how a connection ends
        `connection_end.py`'s.
"""

import asyncio
import re
from functools import partial
from typing import Any

from starlette.responses import Response
from uvicorn.config import Config
from uvicorn.server import ServerState

from service.api.auth.keys import ANYBODY
from service.api.body_reader.reader import BIG_BODY_BYTES
from service.api.http.connection import MAX_HEAD_BYTES, HttpConnection
from service.api.http.heads import is_host
from service.api.methods import announced_bytes

__all__ = ["MAX_HEAD_BYTES", "StepProtocol"]

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


class _Step:
    """A step on its way, with what uvicorn's protocol asks of a cycle."""

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

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._begin_step = self.served.begin
        self._find_caller = self.served.context.keys.find
        self._nobody_waits = asyncio.Event()
        self._session = ""
        self._caller = ANYBODY
        self._said: dict[bytes, bytes] = {}  # the headers of a step
        self._receiving: _Step | None = None
        self._work: asyncio.Future[Any] | None = None

    def begin_request(self) -> None:
        session = self._session_of_plain_step()
        if session is None:
            self._receiving = None
            super().begin_request()
            return
        self._session = session
        self._receiving = _Step(self._nobody_waits)
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
        step, self._receiving = self._receiving, None
        answer = partial(self._answer, step)
        self._work = self._begin_step(self._caller, self._session, step.body, self._said, answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._work is not None:
            self._work.cancel()
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
            and is_host(headers.get(b"host"))
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

    def _answer(self, step: _Step, response: Response) -> None:
        self._work = None
        step.response_started = step.response_complete = True
        self.transport.write(self.wire(response, step.keep_alive))
        if not step.keep_alive:
            self.transport.close()
        self.on_response_complete()
