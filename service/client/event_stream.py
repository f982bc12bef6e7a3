"""Server-Sent Events, without I/O: the events of a session, and text while it is written.

Rule 1: a flow yields effects (a request, a stream to open, a read from it) and, as `Deliver`, the
        values for its user. The driver that runs it sends, sleeps and awaits.
Rule 2: a stream that ends early is opened again, within the time of one operation: events after the
        last one received, a text from its beginning. Text that was delivered already is skipped:
        the same request writes the same text again, or gets the kept reply.
Rule 3: a text counts as a step when `done` is received.
"""

import json
import math
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar, Unpack

from service.client.problems import ClientError, ConflictError
from service.client.requests import Json, Writing, reply_of, session_path
from service.client.retry import NoResponse, Request, Response, Retries, RetryBudget
from service.client.session_state import Sent, SessionState

T = TypeVar("T")

EVENTS = "text/event-stream"
_SILENCE_S = 45.0
"""The service sends a comment every 15 s."""


class SessionEvent(NamedTuple):
    """`name` is open, step, gap or end; `step` is the session's count at that time.

    The `data` of a step is the service's reply to it.
    """

    name: str
    step: int | None
    data: Json


class Subscribe(NamedTuple):
    """Open a stream: the outcome is its head without content, another response, or a failure."""

    request: Request


class Receive(NamedTuple):
    """Wait for the next bytes: the outcome is bytes, None at the end, or a failure."""


class Deliver(NamedTuple, Generic[T]):
    """Hand a value to the user."""

    value: T


EventFlow = Generator[Request | Subscribe | Receive | Deliver[T], Any, None]


class _Event(NamedTuple):
    name: str
    event_id: str | None
    data: str


class _Parser:
    """Chunks of bytes → events; skips comments, which keep a stream alive."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, list[str]] = {}

    def feed(self, data: bytes) -> Iterator[_Event]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            text = line.removesuffix(b"\r").decode()
            if text:
                name, _, value = text.partition(":")
                self._fields.setdefault(name, []).append(value.removeprefix(" "))
                continue
            fields, self._fields = self._fields, {}
            if "data" in fields:
                event_id = fields["id"][-1] if "id" in fields else None
                yield _Event(fields.get("event", [""])[-1], event_id, "\n".join(fields["data"]))


def is_events(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").startswith(EVENTS)


def watch_session(retries: Retries, session: str, after: int | None) -> EventFlow[SessionEvent]:
    """The steps committed to a session from now on, or after step `after`, until it ends."""
    path = f"{session_path(session)}/events"
    last_id = None if after is None else str(after)
    budget, after_s, is_open = RetryBudget(retries), 0.0, False
    while True:
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        head = yield Subscribe(_request("GET", path, b"", budget, after_s, headers))
        wait_s = budget.wait_after(head)
        if wait_s is None:
            _require_events(head)
            opened_s = retries.clock()
            parser, problem = _Parser(), None
            while problem is None and isinstance(received := (yield Receive()), bytes):
                for event in parser.feed(received):
                    if event.name == "error":  # such as a revoked key
                        problem = _problem_in(event)
                        break
                    last_id = last_id if event.event_id is None else event.event_id
                    if event.name != "open" or not is_open:
                        yield Deliver(_session_event(event))
                    is_open = True
                    if event.name == "end":
                        return
            if retries.clock() - opened_s > retries.longest_wait_s:
                budget = RetryBudget(retries)  # the stream was open for a while: a new failure
            wait_s = budget.wait_after(problem or received or NoResponse("the event stream ended"))
        assert wait_s is not None, "a lost stream is opened again"
        after_s = wait_s


def generate_text(session: SessionState, **writing: Unpack[Writing]) -> EventFlow[str]:
    """Let a model write, and deliver the text while it is written; it counts as one step.

    If the user stops early, the service may still commit the text: before its next operation the
    session sends the request again to find out.
    """
    with session.exclusive():
        yield from session.settle()
        request = session.request("generate", None, writing)
        try:
            yield from _generate(session, request)
        except GeneratorExit:
            session.abandon([Sent(session.count, request)])
            raise


def _generate(session: SessionState, request: Request) -> EventFlow[str]:
    budget, after_s, delivered, is_retried = RetryBudget(session.retries), 0.0, "", False
    while True:
        head = yield Subscribe(
            _request(request.method, request.path, request.content, budget, after_s, {})
        )
        try:
            wait_s = budget.wait_after(head)
        except ConflictError as conflict:
            if is_retried:
                raise
            is_retried = True  # the store may have failed over
            for lost in session.lost_since(conflict, session.count):
                yield from budget.run(lost.request)
            continue
        if wait_s is None:
            _require_events(head)
            text, parser, problem = "", _Parser(), None
            while problem is None and isinstance(received := (yield Receive()), bytes):
                for event in parser.feed(received):
                    data = json.loads(event.data)
                    if event.name == "text":
                        text += data["text"]
                        new = _undelivered(text, delivered)
                        delivered += new
                        if new:
                            yield Deliver(new)
                    elif event.name == "restart":
                        text = ""
                    elif event.name == "done":
                        reply = reply_of(data, is_replayed=head.is_replayed)
                        session.advance(Sent(session.count, request), reply)
                        return
                    elif event.name == "error":
                        problem = _problem_in(event)
            wait_s = budget.wait_after(problem or received or NoResponse("the text was cut short"))
        assert wait_s is not None, "a lost stream is opened again"
        after_s = wait_s


def _undelivered(text: str, delivered: str) -> str:
    """The part of `text` that the user does not have yet.

    Raises:
        ClientError: it differs from what was delivered.
    """
    if not (text.startswith(delivered) or delivered.startswith(text)):
        raise ClientError(
            f"the text does not continue the part received before ({delivered[:40]!r}…): another"
            " client stepped the session first; read the session, then generate again"
        )
    return text[len(delivered) :]


def _request(
    method: str,
    path: str,
    content: bytes,
    budget: RetryBudget,
    after_s: float,
    extra: dict[str, str],
) -> Request:
    timeout_s = budget.timeout_s(f"{method} {path}", after_s)
    headers = {"Accept": EVENTS} | extra
    return Request(method, path, content, after_s, timeout_s, headers=headers, silence_s=_SILENCE_S)


def _require_events(head: Response) -> None:
    if not is_events(head.headers):
        head.body()  # raises a clearer error if this is not JSON either
        raise ClientError(f"expected {EVENTS}, found {head.headers.get('content-type')}")


def _problem_in(event: _Event) -> Response:
    """An error event, as the response that it would be without a stream."""
    problem = json.loads(event.data)
    wait_s = problem.get("retry_after_s")
    headers = {} if wait_s is None else {"retry-after": str(math.ceil(wait_s))}
    return Response(int(problem.get("status", 500)), headers, event.data.encode())


def _session_event(event: _Event) -> SessionEvent:
    step = event.event_id
    return SessionEvent(event.name, None if step is None else int(step), json.loads(event.data))
