"""uvicorn's WebSocket protocol, with streams of steps on it: no ASGI messages, no task a message.

Rule 1: the application sees no WebSocket: streams are answered here, other paths with 404.
Rule 2: a stream is refused by an HTTP answer, before it is one; after that by a close code of
        `close_codes.py`. The task that asks the store is the only one, and ends with that.
Rule 3: what is sent in one turn of the loop leaves in one write. A client that does not read for
        `_SLOW_READER_S`, or gets more while `_MAX_UNSENT_BYTES` lie unread, is cut off: one answer
        may be larger than that, and nothing is begun until it is read.
Rule 4: after our close frame, reading goes on until the client's or `close_timeout`: bytes that
        nobody read would make the kernel take back answers that are still on their way. After a
        refusal, it goes on for `LINGER_S`.
Rule 5: whatever ends the messages of a client, it is closed behind the answers to those before
        (`ending.py`).
"""

import asyncio
import re
from asyncio import BaseTransport
from http import HTTPStatus

from starlette.exceptions import HTTPException
from websockets.datastructures import Headers
from websockets.frames import Frame
from websockets.http11 import Request, Response
from websockets.protocol import State

from service.api.auth.key_watch import WatchedKey
from service.api.http.connection_end import LINGER_BYTES, LINGER_S
from service.api.http.fast_path import FastPath
from service.api.problems import carry_problem, http_problem, unexpected_problem
from service.api.request_scope import REQUEST_ID, known_by, request_id_of
from service.api.stream_admission import SUBPROTOCOL, admit, authorization_of, offered
from service.api.websocket.close_codes import CloseCode
from service.api.websocket.ending import EndingProtocol
from service.api.websocket.frames import Frames, text_head, text_of
from service.api.websocket.stream import Stream
from service.api.websocket.timing import StreamFollower
from service.errors import CarryError, MalformedError, UpgradeRequiredError

_REQUEST_ID = REQUEST_ID.decode()
_TRACED = ("traceparent", "tracestate")
_STREAMS = re.compile(r"/v1(?:/sessions/([A-Za-z0-9._~-]{1,128}))?/stream")
_SLOW_READER_S = 20.0
MAX_MESSAGE_BYTES = 256 * 1024
IDLE_S = 3600.0
_MAX_UNSENT_BYTES = 16 << 20
_MAX_FRAGMENTS = 1024
_CLOSE = 0x88  # how the frame of a close begins


class StreamProtocol(EndingProtocol):
    """Made by uvicorn for each connection that asks for a WebSocket."""

    _opening: asyncio.Task[None] | None = None
    _slow_timer: asyncio.TimerHandle | None = None
    _key: WatchedKey | None = None
    _idle_timer: asyncio.TimerHandle | None = None
    _is_flush_due = False
    _is_reading_held = False
    _num_fragments = 0
    _num_unsent = 0
    _num_late_bytes = 0  # after a refusal
    _request_id = ""

    @property
    def is_unanswered(self) -> bool:
        """The handshake has neither led to a stream nor to a task that answers it."""
        return self.stream is None and self._opening is None

    # A client asks for a stream: it gets one, or an HTTP answer that says why not.

    def handle_connect(self, event: Request) -> None:
        path = event.path.partition("?")[0]
        match = _STREAMS.fullmatch(path)
        self._request_id = request_id_of(_first(event.headers, _REQUEST_ID))
        with known_by(self._request_id, path=path):
            self._connect(event, match)

    def connection_made(self, transport: BaseTransport) -> None:
        assert isinstance(self.app, FastPath), "service.app makes nothing else"
        self.context = self.app.context
        super().connection_made(transport)

    def _connect(self, event: Request, match: re.Match[str] | None) -> None:
        self.response = self.conn.accept(event)
        self.handshake_initiated = True
        if self.response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            found = (self.response.body or b"").decode().strip()
            is_upgrade = self.response.status_code == HTTPStatus.UPGRADE_REQUIRED
            kind = UpgradeRequiredError if is_upgrade else MalformedError
            self._refuse(kind(f"expected a WebSocket handshake of version 13: {found}"))
            return
        if match is None:
            self._refuse(HTTPException(404))
            return
        self.transport.pause_reading()
        self._opening = self.loop.create_task(self._open(event.headers, match[1]))

    async def _open(self, headers: Headers, session: str | None) -> None:
        self.context.open_streams.add(self)
        try:
            caller, record = await admit(self.context, headers, session)
        except Exception as error:  # a task's boundary: the client must get an answer
            self._refuse(error)
            return
        if self.disconnected or self.transport.is_closing():
            return
        response = self.response
        for name, value in self.default_headers:
            response.headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        if SUBPROTOCOL in offered(headers):
            response.headers["Sec-WebSocket-Protocol"] = SUBPROTOCOL
        response.headers[_REQUEST_ID] = self._request_id
        self.conn.send_response(response)
        self.handshake_complete = True
        traced = {name.encode(): _first(headers, name) for name in _TRACED}
        self._frames = Frames(self.config.ws_max_size)
        follower = StreamFollower(self.context, caller, self._request_id, traced)
        self.stream = Stream(self.context, caller, self, follower, session)
        self.context.metrics.stream_opened("websocket")
        if record is not None:
            self.send(Stream.hello(record))
        self.flush()
        self.transport.resume_reading()
        self.start_keepalive()
        self._watch_idle()
        watch = self.context.key_watch.watch
        self._key = watch(authorization_of(headers), caller, self._end_without_key)
        if self.context.engine.is_draining:
            self.drain()

    def _refuse(self, error: Exception) -> None:
        self.context.open_streams.discard(self)
        if self.disconnected or self.transport.is_closing():
            return
        if isinstance(error, CarryError):
            answer = carry_problem(error)
        elif isinstance(error, HTTPException):
            answer = http_problem(error, "WebSocket")
        else:
            answer = unexpected_problem(error, "a stream")
        headers = Headers(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in (*self.default_headers, *answer.raw_headers)
        )
        headers["Connection"] = "close"
        phrase = HTTPStatus(answer.status_code).phrase
        self._respond(Response(answer.status_code, phrase, headers, bytes(answer.body)))

    def _respond(self, response: Response) -> None:
        response.headers[_REQUEST_ID] = self._request_id
        self.handshake_complete = self.close_sent = True
        # Not by `conn`, which answers nothing where it could not read the head.
        self.transport.write(response.serialize())
        self.transport.write_eof()  # what the client still sends is read for a while: see rule 4
        self.transport.resume_reading()
        self.close_timer = self.loop.call_later(LINGER_S, self.transport.close)

    # Messages come in.

    def data_received(self, data: bytes) -> None:
        if self.stream is None:  # the handshake: it comes by itself, and then nothing is read
            if self.close_sent:
                self._num_late_bytes += len(data)
                if self._num_late_bytes > LINGER_BYTES:
                    self.transport.close()
                return
            super().data_received(data)
            if not self.handshake_initiated:
                self._request_id = request_id_of(None)
                with known_by(self._request_id):
                    self._refuse(_unreadable(self.conn.handshake_exc))
            return
        conn = self.conn
        for frame, text_at in self._frames.cut(data):
            if self._is_ending:  # all but that the client closes as well is behind the end
                self._is_closed_by_client |= frame[0] == _CLOSE
            elif text_at and conn.state is State.OPEN and conn.current_size is None:
                self._take(text_of(frame, text_at))
            else:
                if conn.writes:  # before what the library answers
                    self.flush()
                super().data_received(frame)

    def handle_text(self, event: Frame) -> None:
        if event.fin:
            self._take(bytes(event.data))
        else:
            self._num_fragments = 1
            self.frames = [bytes(event.data)]

    def handle_bytes(self, event: Frame) -> None:
        self.end_by(CloseCode.UNSUPPORTED, "expected JSON as text")

    def handle_cont(self, event: Frame) -> None:
        self._num_fragments += 1  # of no bytes each, they pass the bound of a message's size
        if self._num_fragments > _MAX_FRAGMENTS:
            self.end_by(CloseCode.POLICY, f"more than {_MAX_FRAGMENTS} fragments")
            return
        self.frames.append(bytes(event.data))
        if event.fin:
            frames, self.frames = self.frames, []
            self._take(b"".join(frames))

    def _take(self, data: bytes) -> None:
        if self.close_sent or self.stream is None:  # nobody may send before the stream is open
            return
        if not data.isascii():
            try:
                data.decode()
            except UnicodeDecodeError:
                self.end_by(CloseCode.NOT_UTF8, "expected UTF-8")
                return
        self.stream.take(data)

    # What the stream asks of its socket.

    def send(self, data: bytes) -> None:  # type: ignore[override]  # ASGI's is not used here
        if self.close_sent or self.transport.is_closing():
            return
        self.conn.writes += (text_head(len(data)), data)  # what `send_text` does, six times faster
        self._num_unsent += 1
        if not self._is_flush_due:
            self._is_flush_due = True
            self.loop.call_soon(self.flush)

    def hold_reading(self) -> None:
        self._is_reading_held = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        self._is_reading_held = False
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def close(self, code: int, reason: str) -> None:
        if self.close_sent or self.conn.state is not State.OPEN or self.transport.is_closing():
            return
        self.conn.send_close(code, reason)
        self.flush()
        self.close_sent, self._is_ending = True, False
        self.stop_keepalive()
        self.resume_reading()
        if self._is_closed_by_client:
            self.transport.close()
        else:
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)

    def flush(self) -> None:
        self._is_flush_due = False
        num_sent, self._num_unsent = self._num_unsent, 0
        if self.transport.is_closing():
            return
        if num_sent:
            self.context.metrics.stream_sent("websocket", num_sent)
        if self.transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            self.transport.abort()
            return
        self.transport.write(b"".join(self.conn.data_to_send()))

    # What happens to the socket.

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.stream is not None:
            self.stream.block()
            self._slow_timer = self.loop.call_later(_SLOW_READER_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_slow_timer()
        if self.stream is not None:
            self.stream.unblock()

    def shutdown(self) -> None:
        try:
            if self.stream is not None:
                self.context.stop()
                self.drain()
            elif self._opening is None:
                super().shutdown()
            # else it is refused, or drained as soon as it is open
        except Exception:  # the boundary: the others are to be shut down, too
            self.logger.exception("a stream failed to shut down")
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_slow_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self._key is not None:
            self.context.key_watch.unwatch(self._key)
        if self.stream is not None:
            self.context.metrics.stream_closed("websocket")
            self.stream.lost()
        if self._opening is not None:
            self.context.open_streams.discard(self)
        super().connection_lost(exc)

    def send_keepalive_ping(self) -> None:
        if self._is_reading_held:  # the answer would not be read
            self.schedule_ping()
        else:
            super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        if self._is_reading_held:
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()
        else:
            super().keepalive_timeout()

    def _watch_idle(self) -> None:
        """Close a stream on which nothing came for one to two of these times."""
        assert self.stream is not None, "watched from when it is open"
        if self.stream.is_idle and self._idle_timer is not None:
            self.close(CloseCode.IDLE, "no message for a long time")
            return
        self.stream.is_idle = True
        self._idle_timer = self.loop.call_later(IDLE_S, self._watch_idle)

    def _end_without_key(self) -> None:
        """The key was revoked, has expired, or means another tenant or role now."""
        self.end_now(CloseCode.KEY_GONE, "the key was revoked, has expired or was changed")

    def _stop_slow_timer(self) -> None:
        if self._slow_timer is not None:
            self._slow_timer.cancel()
            self._slow_timer = None


def _unreadable(error: Exception | None) -> MalformedError:
    """uvicorn leaves such a handshake open and unanswered, and fails when it shuts down."""
    found = "" if error is None else f": {error.__cause__ or error}"
    return MalformedError(f"expected a WebSocket handshake, a GET without a body{found}")


def _first(headers: Headers, name: str) -> bytes:
    """The value of the first header of this name; empty where there is none."""
    return next(iter(headers.get_all(name)), "").encode("latin-1", "replace")
