"""The bytes of one HTTP/1.1 connection: where each request ends, and in which order answers leave.

Rule 1: one parser says where a request ends. It is never used again after it gave up a message: an
        upgrade that is no WebSocket handshake is ignored (RFC 9110 §7.8), by parsing the same head
        again without it, in a new parser, and then the bytes behind it.
Rule 2: what ends a connection (a malformed request, a handshake, the client's end of it) waits for
        the answers to all whole requests before it (RFC 9112 §9.3.2). Nothing behind is begun.
Rule 3: what comes in without being part of a body is bounded by `MAX_HEAD_BYTES`: the head, the
        extensions of chunks, trailers. Trailers are dropped: they are no headers (RFC 9110 §6.5.1).
Rule 4: a client that ended its side still gets its answers; one that left is found by
        `half_closed.py`.
Rule 5: a connection that is closed while its client may still send is half-closed first, and read
        for `LINGER_S`, and `LINGER_BYTES`: bytes that nobody read would make the kernel take back the last answers
        (RFC 9112 §9.6).
Rule 6: whoever is waited for too long is closed by `connections.py`, which asks for `progress`.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import httptools
from starlette.responses import Response
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from service.api.half_closed import HalfClosedWatch
from service.api.heads import (
    announces_body,
    asks_for_websocket,
    fault_of,
    head_bytes,
    without_upgrade,
)
from service.api.hot_path import HotPath
from service.api.request_ids import early_problem
from service.errors import (
    CarryError,
    HeadTooLargeError,
    MalformedError,
    SlowRequestError,
    TooManyConnectionsError,
)

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's line and headers: four times what common proxies let through."""

LINGER_S = 2.0
LINGER_BYTES = 256 * 1024
_INTERIM = b"HTTP/1.1 102 Processing\r\n\r\n"
_COMMENT = b"3\r\n:\n\n\r\n"  # of a stream of events, as one chunk


class HttpConnection(HttpToolsProtocol):
    """Made by uvicorn, one for each connection; `self.cycle` is the newest request's."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(self.app, HotPath), "service.app makes nothing else"
        self.served = self.app
        self._admitted = self.app.connections
        self._num_requests = 0  # that have come in whole
        self._num_unanswered = 0  # of those that have begun, or wait in `pipeline`
        self._is_in_head = False
        self.is_in_body = False
        self._is_upgrade = False  # the head asks for one
        self._is_silent = False  # nothing of a head's end, a body or a request's end came
        self._num_silent_bytes = 0
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
                    f"{most} connections are open, as many as may be: keep fewer, or try again",
                    retry_after_s=1,
                )
            )
            self.transport.close()  # a descriptor more, and nothing was read

    def connection_lost(self, exc: Exception | None) -> None:
        self._admitted.remove(self)
        super().connection_lost(exc)

    # Bytes come in.

    def data_received(self, data: bytes) -> None:
        if self._is_ending or self.transport.is_closing():  # what was on its way still comes
            self._num_late_bytes += len(data)
            if self._is_lingering and self._num_late_bytes > LINGER_BYTES:
                self.transport.close()
            return
        self._unset_keepalive_if_required()
        self._is_silent = True
        rest: bytes | memoryview = data
        while rest:
            rest = self._feed(rest)
        # Where a request ended in this read, how much of it is the next one's head is not known.
        if self._is_silent and (self._is_in_head or self.is_in_body):
            self._num_silent_bytes += len(data)
            if self._num_silent_bytes > MAX_HEAD_BYTES:
                self.end(_head_too_large())

    def _feed(self, data: bytes | memoryview) -> bytes | memoryview:
        """Parse; what remains of `data` behind an upgrade that is ignored."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._upgraded(memoryview(data)[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._end_malformed()
        return b""

    def _upgraded(self, rest: memoryview) -> bytes | memoryview:
        """The parser stopped behind a head that asks for an upgrade. See rule 1."""
        if self._is_ending:
            return b""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            self.end(MalformedError("CONNECT asks for a proxy: expected a path of this server"))
            return b""
        if asks_for_websocket(method, version, self.headers):
            fault = fault_of(version, self.headers)
            if fault is None and announces_body(self.headers):
                fault = MalformedError("a WebSocket handshake has a body: expected none")
            if fault is None:
                self._is_ending = True  # what a client sends before it is answered is dropped
                self._when_answered(self._hand_over)
            else:
                self.end(fault)
            return b""
        head = head_bytes(method, self.url, version, without_upgrade(self.headers))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._feed(head)
        return rest

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

    # Called by the parser, in this order.

    def on_message_begin(self) -> None:
        if self._is_ending:
            return
        self._is_in_head = True
        self._is_upgrade = False
        self._num_silent_bytes = 0
        # What uvicorn does here waits until it is known whether it is needed.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # else a trailer
            self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        if self._is_ending:
            return
        self._is_in_head = self._is_silent = False
        self._num_silent_bytes = 0
        num_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if num_bytes > MAX_HEAD_BYTES:
            self.end(_head_too_large())
        elif self.parser.should_upgrade():
            self._is_upgrade = True
        else:
            self.is_in_body = True
            self._num_unanswered += 1
            self.begin_request()

    def begin_request(self) -> None:
        """The head of a request is in `url` and `headers`: make it the newest cycle."""
        url, headers, version = self.url, self.headers, self.parser.get_http_version()
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)  # this very list is in the scope
        self.expect_100_continue = version == "1.1" and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        fault = fault_of(version, headers)
        if fault is not None:
            self.scope["fault"] = fault  # type: ignore[typeddict-unknown-key]  # for `HotPath`
        super().on_headers_complete()
        self.cycle.transport = _Closing(self)  # type: ignore[assignment]  # all that it asks for

    def on_body(self, body: bytes) -> None:
        self._is_silent = False
        self._num_silent_bytes = 0
        if not self._is_ending:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_ending or self._is_upgrade:
            return
        self.is_in_body = self._is_silent = False
        self._num_requests += 1
        super().on_message_complete()
        # A trailer may say `Connection: close`, too: the parser then drops what comes behind.
        if not (self.cycle.keep_alive and self.parser.should_keep_alive()):
            self.end(None)

    # Answers leave, and the connection ends.

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

    def send_400_response(self, msg: str) -> None:
        self._end_malformed()

    def shutdown(self) -> None:
        try:
            self.served.context.stopping.set()
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

    def _end_malformed(self) -> None:
        if not self._is_ending:
            self._admitted.note_malformed()
        self.end(MalformedError("this is no HTTP/1.1 request: see RFC 9112"))

    def _when_answered(self, action: Callable[[], None]) -> None:
        self._at_end = action
        self._end_if_due()

    def _end_if_due(self) -> None:
        # A client that does not read what it has got is cut off by `connections.py`.
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

    def _hand_over(self) -> None:
        """Give the connection to a WebSocket's protocol, which is given the head again."""
        self._is_websocket = True  # still counted, until its transport closes
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        assert self.ws_protocol_class is not None, "service.server sets one"
        protocol: Any = self.ws_protocol_class(
            config=self.config,  # type: ignore[call-arg]
            server_state=self.server_state,
            app_state=self.app_state,
        )
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        protocol.data_received(head_bytes(b"GET", self.url, "1.1", self.headers))

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
            self.end(SlowRequestError("the request did not come in whole in time"))
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


class _Closing:
    """What a cycle sees of its connection's transport; closing it minds what is still sent."""

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing

    def close(self) -> None:
        self._connection.close(is_read=not self._connection.is_in_body)


def _head_too_large() -> CarryError:
    return HeadTooLargeError(
        f"the line and headers of the request are longer than {MAX_HEAD_BYTES} bytes: send less"
    )
