"""How a stream of steps ends: behind the answers to every message that came before its end.

Rule 1: a client ends its messages by a close frame, by ending its side of the connection (FIN), or
        by a frame that is refused. What came before is applied and answered, then the socket is
        closed: with the client's own close code, with 1000 after a FIN, else with the reason.
Rule 2: the library answers a close frame or a bad frame when it reads it; that is held back.
Rule 3: a server that stops reads once more what has reached the socket, answers that, and closes
        with 1012; so does a close frame that came behind messages which were not taken any more.
Rule 4: it takes as long as the messages do, each of which has its deadline; a client that does not
        read its answers is cut off as ever.
"""

from collections.abc import Callable
from functools import partial

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Close, Frame, Opcode

from service.api.websocket.close_codes import CloseCode
from service.api.websocket.stream import Stream

_RESTARTS = "the server shuts down: connect again"


class EndingProtocol(WebSocketsSansIOProtocol):
    """The part of `StreamProtocol` that ends it, which it extends by everything else."""

    stream: Stream | None = None
    _is_ending = False
    _is_closed_by_client = False

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, and wait for the client's unless that came already."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write what is to be sent."""
        raise NotImplementedError

    # Called by uvicorn's protocol.

    def handle_close(self, event: Frame) -> None:
        if self.close_sent or self.stream is None:
            super().handle_close(event)
        else:
            self._end_with(b"".join(self.conn.data_to_send()))

    def handle_parser_exception(self) -> None:
        if self.close_sent or self.stream is None:
            super().handle_parser_exception()
        else:
            self._end_with(b"".join(self.conn.data_to_send()))

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's protocol reads it
        """The client sends no more, but may still read: True keeps the connection for answers."""
        if self.stream is None or self.close_sent:
            return False
        self._is_closed_by_client = True
        if not self._is_ending:
            self._end_with(_close_frame(CloseCode.NORMAL, "the client sends no more"))
        return True

    # Called by what refuses a message, and by the shutdown.

    def end_by(self, code: CloseCode, reason: str) -> None:
        """A message is refused: the stream is closed behind the answers to those before it."""
        if not self.close_sent:
            self._end(partial(self.close, code, reason))

    def end_now(self, code: CloseCode, reason: str) -> None:
        """Close at once: nothing more is begun or answered."""
        assert self.stream is not None, "its callers look"
        self.stream.drop()
        if self._is_ending:
            self._hang_up(_close_frame(code, reason))
        else:
            self.close(code, reason)

    def drain(self) -> None:
        """The server stops."""
        # Two turns of the loop: what has reached the socket by now is read in between.
        self.loop.call_soon(self.loop.call_soon, self._drain)

    def _drain(self) -> None:
        assert self.stream is not None, "a stream is drained, and nothing else"
        if not self._is_ending:
            self.stop_keepalive()
            self.stream.finish(partial(self.close, CloseCode.RESTART, _RESTARTS))

    def _end_with(self, close_frame: bytes) -> None:
        assert self.stream is not None, "its callers look"
        if self.stream.has_dropped:  # the client must not take these for applied
            close_frame = _close_frame(CloseCode.RESTART, _RESTARTS)
        self._end(partial(self._hang_up, close_frame))

    def _hang_up(self, close_frame: bytes) -> None:
        if not self.close_sent and not self.transport.is_closing():
            self.conn.writes.append(close_frame)
            self.flush()
            self.close_sent = True
            self.transport.close()

    def _end(self, on_answered: Callable[[], None]) -> None:
        assert self.stream is not None, "nothing ends before it is open"
        self._is_ending = True
        self.stop_keepalive()
        self.stream.finish(on_answered, is_client_done=True)


def _close_frame(code: CloseCode, reason: str) -> bytes:
    return Frame(Opcode.CLOSE, Close(code, reason).serialize()).serialize(mask=False)
