"""The bytes of one HTTP/1.1 connection: where each request ends.

Rule 1: one parser says where a request ends. It is never used again after it gave up a message: an
        upgrade that is no WebSocket handshake is ignored (RFC 9110 §7.8), by parsing the same head
        again without it, in a new parser, and then the bytes behind it.
Rule 2: what comes in without being part of a body is bounded by `MAX_HEAD_BYTES`: the head, the
        extensions of chunks, trailers. Trailers are dropped: they are no headers (RFC 9110 §6.5.1).
Rule 3: how the connection ends, and with which answers, is in `connection_end.py`.
"""

from typing import Any

import httptools

from service.api.http.connection_end import ClosingTransport, EndingConnection
from service.api.http.heads import (
    announces_body,
    asks_for_websocket,
    fault_of,
    head_bytes,
    without_upgrade,
)
from service.errors import CarryError, HeadTooLargeError, MalformedError

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's line and headers: four times what common proxies let through."""


class HttpConnection(EndingConnection):
    """Made by uvicorn, one for each connection; `self.cycle` is the newest request's."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 -- as uvicorn has them
        super().__init__(*args, **options)
        self._is_upgrade = False  # the head asks for one
        self._is_silent = False  # nothing of a head's end, a body or a request's end came
        self._num_silent_bytes = 0

    def data_received(self, data: bytes) -> None:
        if self._is_ending or self.transport.is_closing():  # what was on its way still comes
            self.drop(data)
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

    def send_400_response(self, msg: str) -> None:
        self._end_malformed()

    def _end_malformed(self) -> None:
        if not self._is_ending:
            self._admitted.note_malformed()
        self.end(MalformedError("this is not an HTTP/1.1 request: see RFC 9112"))

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
            self.scope["fault"] = fault  # type: ignore[typeddict-unknown-key]  # for `FastPath`
        super().on_headers_complete()
        self.cycle.transport = ClosingTransport(self)  # type: ignore[assignment]  # all that it asks for

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


def _head_too_large() -> CarryError:
    return HeadTooLargeError(
        f"the line and headers of the request are longer than {MAX_HEAD_BYTES} bytes: send less"
    )
