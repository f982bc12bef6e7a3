# Written by `make client` from asynchronous.py: change that file.
"""The client for threads. A session belongs to one thread at a time."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack

import httpx

from service.client import requests, session_state, step_many
from service.client.http import answer_of, lost, open_options, request_of
from service.client.listening import (
    Deliver,
    EventFlow,
    SessionEvent,
    Subscribe,
    happened,
    is_events,
    written,
)
from service.client.problems import UnreachableError
from service.client.requests import Json, Observed, Opening, Options, Rows, StepReply, Writing
from service.client.retry import NoResponse, Request, Response, Retries
from service.client.session_state import RESEND_BYTES, Flow, SessionState
from service.client.step_many import Result
from service.client.streaming.synchronous import SessionStream
from service.client.streaming.wire import Address

T = TypeVar("T")


class Client:
    """Connections to one service.

    `key` is an API key. `resend_bytes` of what each session was fed are kept, in case that a store
    fails over and loses them.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        retries: Retries | None = None,
        resend_bytes: int = RESEND_BYTES,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._retries = retries or Retries()
        self._resend_bytes = resend_bytes
        self._sleep = sleep
        self._was_answered = False
        self._url = url
        self._address = Address.of(url, key)
        self._http = httpx.Client(**open_options(url, key), transport=transport)

    def open(self, model: str, **opening: Unpack[Opening]) -> "Session":
        """A session, warmed up on `history` where there is one; `if_exists="resume"` goes on."""
        flow = session_state.opened(self._retries, self._resend_bytes, model, **opening)
        return Session(self, self.run(flow))

    def predict(
        self, model: str, instances: Iterable[Any], **options: Unpack[Options]
    ) -> list[Json]:
        """One prediction for each instance, without a session."""
        return self.run(requests.predicted(self._retries, model, instances, **options))

    def resume(self, session: str) -> "Session":
        """A session that is open already, from where it stands now."""
        flow = session_state.resumed(self._retries, self._resend_bytes, session)
        return Session(self, self.run(flow))

    def restore(self, session: str, snapshot: bytes, *, replace: bool = False) -> "Session":
        """A session from a snapshot, here or elsewhere; `replace` also onto an open one."""
        flow = session_state.restored(self._retries, self._resend_bytes, session, snapshot, replace)
        return Session(self, self.run(flow))

    def sessions(self, model: str | None = None) -> Iterator[Json]:
        """Every open session, by name, as the service describes it."""
        cursor: str | None = ""
        while cursor is not None:
            page = self.run(requests.listed(self._retries, model, cursor))
            yield from page["sessions"]
            cursor = page["next_cursor"]

    def models(self) -> list[Json]:
        """The models that are served, with their versions and tasks."""
        return self.run(requests.models(self._retries))

    def ready(self) -> bool:
        """Whether the service can serve now; asked once, without waiting for it."""
        try:
            answer = self.send(Request("GET", "/readyz", timeout_s=self._retries.timeout_s))
        except UnreachableError:
            return False
        return isinstance(answer, Response) and answer.status == 200

    def events(self, session: str, *, after: int | None = None) -> Iterator[SessionEvent]:
        """Steps committed to a session by any client, until it ends or you stop listening.

        It begins with `open`; with `after`, a step, it goes on from the replies kept behind that.
        Cuts and restarts are waited out; what was missed and is not kept any more is a `gap`.
        """
        return self.listen(happened(self._retries, session, after))

    def delete(self, session: str) -> None:
        """Close a session by its name."""
        self.run(requests.closed(self._retries, session))

    def step_many(self, asked: Sequence[tuple["Session", Rows]]) -> list[Result]:
        """Step many sessions at once: for each its reply, or the `ProblemError` of it alone."""
        rows = [(session.protocol, rows) for session, rows in asked]
        return self.run(step_many.stepped_many(self._retries, rows))

    def stream_of(self, protocol: SessionState) -> SessionStream:
        """The WebSocket of one session, not open yet."""
        return SessionStream(protocol, self._address, self.send, self._sleep)

    def close(self) -> None:
        """Close the connections. Sessions stay."""
        self._http.close()

    def run(self, flow: Flow[T]) -> T:
        """Send what a flow asks for until it comes to something."""
        with closing(flow):
            outcome: Response | NoResponse | None = None
            while True:
                try:
                    call = next(flow) if outcome is None else flow.send(outcome)
                except StopIteration as done:
                    result: T = done.value
                    return result
                outcome = self.send(call)

    def send(self, call: Request) -> Response | NoResponse:
        """What came of one call."""
        if call.after_s:
            self._sleep(call.after_s)
        try:
            response = self._http.send(request_of(self._http, call))
        except httpx.TransportError as error:
            return lost(error, self._http.base_url, is_first=not self._was_answered)
        self._was_answered = True
        return answer_of(response)

    def listen(self, flow: EventFlow[T]) -> Iterator[T]:
        """What a flow tells, one by one, as it comes."""
        outcome: Any = None
        with closing(flow), ExitStack() as connection:
            chunks: Iterator[bytes] | None = None
            while True:
                try:
                    effect = flow.send(outcome)
                except StopIteration:
                    return
                outcome = None
                if isinstance(effect, Deliver):
                    yield effect.value
                elif isinstance(effect, Request):
                    outcome = self.send(effect)
                elif isinstance(effect, Subscribe):
                    connection.close()
                    outcome, chunks = self._open_events(connection, effect.call)
                else:
                    outcome = self._receive(chunks)

    def _open_events(
        self, connection: ExitStack, call: Request
    ) -> tuple[Response | NoResponse, Iterator[bytes] | None]:
        if call.after_s:
            self._sleep(call.after_s)
        try:
            response = self._http.send(request_of(self._http, call), stream=True)
            self._was_answered = True
            connection.callback(response.close)
            if response.is_success and is_events(response.headers):
                return Response(response.status_code, response.headers, b""), response.iter_bytes()
            response.read()
        except httpx.TransportError as error:
            told = lost(error, self._http.base_url, is_first=not self._was_answered)
            return told, None
        return answer_of(response), None

    def _receive(self, chunks: Iterator[bytes] | None) -> bytes | NoResponse | None:
        try:
            return None if chunks is None else next(chunks, None)
        except httpx.TransportError as error:
            return lost(error, self._http.base_url, is_first=False)

    def __repr__(self) -> str:
        key = "" if self._address.key is None else ", key='…'"
        return f"Client({self._url!r}{key})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Session:
    """One session. Its steps number themselves and are applied exactly once.

    Every operation may raise a `ProblemError`, or `UnansweredError` when its time was up.
    """

    def __init__(self, client: Client, stream: SessionState) -> None:
        self._client = client
        self.protocol = stream

    def __repr__(self) -> str:
        return f"<Session {self.protocol.described()}>"

    @property
    def name(self) -> str:
        return self.protocol.name

    @property
    def count(self) -> int:
        """How many observations it has consumed, by the last answer."""
        return self.protocol.count

    @property
    def prediction(self) -> Json | None:
        """The last one that was answered."""
        return self.protocol.prediction

    def step(self, rows: Rows | None = None, **observed: Unpack[Observed]) -> StepReply:
        """Feed the next rows (or `text=`, `tensors=`); the prediction after them, committed.

        They follow the last row without a gap: a frame's index of times is not sent.
        """
        return self._client.run(self.protocol.step(rows, **observed))

    def preview(self, rows: Rows | None = None, **observed: Unpack[Observed]) -> StepReply:
        """What `step` would answer. The session stays as it is."""
        return self._client.run(self.protocol.preview(rows, **observed))

    def stream(self) -> SessionStream:
        """Its WebSocket, for `with`: many steps in flight, resumed by itself."""
        return self._client.stream_of(self.protocol)

    def generate(self, **writing: Unpack[Writing]) -> StepReply:
        """Have a model that writes go on; the reply's `text` is what it wrote, committed."""
        return self._client.run(self.protocol.generate(**writing))

    def generate_stream(self, **writing: Unpack[Writing]) -> Iterator[str]:
        """As `generate`, but its text as it is written; at its end `count` has moved.

        To stop in the middle does not take the text back: where it is committed it stays.
        """
        return self._client.listen(written(self.protocol, **writing))

    def events(self, *, after: int | None = None) -> Iterator[SessionEvent]:
        """Steps committed to it by any client: see `Client.events`."""
        return self._client.events(self.name, after=after)

    def rewind(self, step: int) -> None:
        """Go back to a checkpoint, as if later steps had not been made; `detail` lists them."""
        self._client.run(self.protocol.rewind(step))

    def upgrade(
        self, version: str, policy: Literal["carry", "replay"] = "carry", *, force: bool = False
    ) -> Json:
        """Go on with another version of the model; what the service tells of it.

        `force` carries a state on to other weights, to which it may mean nothing.
        """
        return self._client.run(self.protocol.upgrade(version, policy, force=force))

    def detail(self) -> Json:
        """The session as the service describes it: step, expiry, checkpoints and more."""
        return (self._client.run(self.protocol.read())).body()

    def snapshot(self) -> bytes:
        """The session as signed bytes, for `restore`."""
        return (self._client.run(self.protocol.read("/snapshot"))).content

    def fork(
        self,
        session: str | None = None,
        *,
        ttl_s: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> "Session":
        """A session of its own that goes on from here."""
        forked = self._client.run(self.protocol.fork(session, ttl_s, metadata))
        return Session(self._client, forked)

    def close(self) -> None:
        """End the session and drop its state."""
        self._client.run(self.protocol.close())
