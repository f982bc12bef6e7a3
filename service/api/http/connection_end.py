"""How a connection ends: behind which answers, with what, and when its client has had its time.

Rule 1: what ends a connection (a malformed request, a handshake, the client's end of it) waits for
        the answers to all whole requests before it (RFC 9112 §9.3.2). Nothing behind is begun.
Rule 2: a client that ended its side still gets its answers; one that left is found by
        `half_closed.py`.
Rule 3: a connection that is closed while its client may still send is half-closed first, and read
        for `LINGER_S` or `LINGER_BYTES`: bytes that nobody read would make the kernel take back the
        last answers (RFC 9112 §9.6).
Rule 4: a client that is waited for too long is closed by `connection_limits.py`, which asks for
        `progress`.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.api.http.fast_path import FastPath
from service.api.http.half_closed import HalfClosedWatch
from service.api.request_scope import early_problem
from service.errors import CarryError, MalformedError, SlowRequestError, TooManyConnectionsError

LINGER_S = 2.0
LINGER_BYTES = 256 * 1024
_INTERIM = b"HTTP/1.1 102 Processing\r\n\r\n"
_COMMENT = b"3\r\n:\n\n\r\n"  # of a stream of events, as one chunk


class EndingConnection(HttpToolsProtocol):
    """Everything but the reading of requests, which `connection.py` adds."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 -- as uvicorn has them
        super().__init__(*args, **options)
        assert isinstance(self.app, FastPath), "service.app makes nothing else"
        self.served = self.app
        self._admitted = self.app.connections
        self._num_requests = 0  # that have come in whole
        self._num_unanswered = 0  # of those that have begun, or wait in `pipeline`
        self._is_in_head = False
        self.is_in_body = False
        self._is_ending = False  # nothing more is read
        self._at_end: Callable[[], None] | None = None  # due when all is answered
        self._num_late_bytes = 0  # that came then
        self._is_lingering = False  # our side has ended
        self._has_eof = False  # the client's side has
        self._is_websocket = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._admitted.admit(self):
            most = self._admitted.max_connections
            self.end(
                TooManyConnectionsError(
                    f"{most} connections are open, which is the limit: close some, or try again",
                    retry_after_s=1,
                )
            )
            self.transport.close()  # a descriptor more, and nothing was read

    def connection_lost(self, exc: Exception | None) -> None:
        self._admitted.remove(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._num_unanswered -= 1
        if not self._is_lingering:
            super().on_response_complete()
            self._end_if_due()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_if_due()

    def end(self, error: CarryError | None) -> None:
        """Close when all whole requests are answered; `error` answers what is behind them."""
        if self._is_ending:
            return
        self._is_ending = True
        is_in_body, self._is_in_head, self.is_in_body = self.is_in_body, False, False
        if is_in_body:  # of the newest request, which will never be whole
            if self.pipeline and self.pipeline[0][0] is self.cycle:
                self.pipeline.popleft()
                self._num_unanswered -= 1
            else:
                self._num_unanswered = 0
                error = None if self.cycle.response_started else error
        self._when_answered(partial(self._close, error))

    def shutdown(self) -> None:
        try:
            self.served.context.stop()
            if self._is_lingering:
                self.transport.close()
            else:
                super().shutdown()
        except Exception:  # the boundary: the others are to be shut down, too
            self.logger.exception("a connection failed to shut down")
            self.transport.abort()

    def wire(self, response: Response, keep_alive: bool) -> bytes:
        parts = [STATUS_LINE[response.status_code]]
        for name, value in (*self.server_state.default_headers, *response.raw_headers):
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n" if keep_alive else b"connection: close\r\n\r\n", bytes(response.body))
        return b"".join(parts)

    def eof_received(self) -> bool:  # type: ignore[override]
        self._has_eof = True
        if self._is_lingering:
            return False
        if not self._is_ending:
            is_partial = self._is_in_head or self.is_in_body
            self.end(
                MalformedError("the connection ended before the request: expected all of its body")
                if is_partial
                else None
            )
        if self.transport.is_closing():
            return False
        HalfClosedWatch(self.transport, self._probe)
        if self._is_telling_events():
            self.transport.write(_COMMENT)
        return True

    def _when_answered(self, action: Callable[[], None]) -> None:
        self._at_end = action
        self._end_if_due()

    def drop(self, data: bytes) -> None:
        self._num_late_bytes += len(data)
        if self._is_lingering and self._num_late_bytes > LINGER_BYTES:
            self.transport.close()

    def _end_if_due(self) -> None:
        # A client that does not read what it has got is cut off by `connection_limits.py`.
        action = self._at_end
        if action is None or self._num_unanswered or self.flow.write_paused:
            return
        self._at_end = None
        if not self.transport.is_closing():
            action()

    def _close(self, error: CarryError | None) -> None:
        if error is not None:
            self.transport.write(self.wire(early_problem(error), keep_alive=False))
        self.close(is_read=error is None)

    def close(self, *, is_read: bool) -> None:
        """`is_read`: nothing that the client sent can be on its way. See rule 5."""
        if is_read or self._has_eof or self.transport.is_closing():
            self.transport.close()
            return
        self._is_ending = self._is_lingering = True
        self.pipeline.clear()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER_S, self.transport.close)

    # Asked by `Connections`.

    def progress(self) -> object | None:
        if self._is_websocket and not self.transport.is_closing():
            protocol: Any = self.transport.get_protocol()
            return 0 if protocol.is_unanswered else None
        if self.flow.write_paused or self.transport.is_closing():
            return self.transport.get_write_buffer_size()
        if self.flow.read_paused or (self._num_unanswered and not self.is_in_body):
            return None
        return (self._num_requests,)

    def close_slow(self) -> None:
        if (self._is_in_head or self.is_in_body) and not self.flow.write_paused:
            self.end(SlowRequestError("the request was not received completely in time"))
        else:  # nothing is said to it yet, or it does not read what is said
            self.transport.abort()

    def _is_telling_events(self) -> bool:
        cycle = self.cycle
        return (
            isinstance(cycle, RequestResponseCycle)
            and cycle.response_started
            and bool(cycle.chunked_encoding)
            and "is_event_stream" in cycle.scope
        )

    def _probe(self) -> bytes:
        if self._num_unanswered != 1:
            return b""
        if self._is_telling_events():
            return _COMMENT
        cycle = self.cycle
        is_old = isinstance(cycle, RequestResponseCycle) and cycle.scope["http_version"] != "1.1"
        return b"" if is_old or cycle.response_started else _INTERIM


class ClosingTransport:
    """What a cycle sees of its connection's transport; closing it minds what is still sent."""

    def __init__(self, connection: EndingConnection) -> None:
        self._connection = connection
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing

    def close(self) -> None:
        self._connection.close(is_read=not self._connection.is_in_body)
