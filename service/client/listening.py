"""Server-sent events, without I/O: what happens to a session, and texts while they are written.

Rule 1: a flow yields what is to be done (a call, a stream to open, the next part of it) and, as
        `Deliver`, what its user gets. Who runs it sends, sleeps and awaits.
Rule 2: a stream that ends early is opened again, within the time of one operation: events from the
        last one that came, a text from its beginning. Of a text that was heard in part only the
        rest is told: the same request is written the same again, or answered from the kept replies.
Rule 3: a text counts when `done` came, as a step does when it is answered.
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
"""The service says something every 15 s."""


class SessionEvent(NamedTuple):
    """`name` is open, step, gap or end; `step` is where the session stood then.

    `data` of a step is the service's answer to it.
    """

    name: str
    step: int | None
    data: Json


class Subscribe(NamedTuple):
    """Open a stream: outcome is its head, without content, any other answer, or what went wrong."""

    call: Request


class Receive(NamedTuple):
    """Wait for the next bytes of it: outcome is these, None at its end, or what went wrong."""


class Deliver(NamedTuple, Generic[T]):
    """What the user gets."""

    value: T


EventFlow = Generator[Request | Subscribe | Receive | Deliver[T], Any, None]


class _Event(NamedTuple):
    name: str
    event_id: str | None
    data: str


class _Parser:
    """Bytes as they come → events; comments, which keep a stream alive, are passed over."""

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


def happened(retries: Retries, session: str, after: int | None) -> EventFlow[SessionEvent]:
    """What is committed to a session from now on, or from step `after`, until it ends."""
    path = f"{session_path(session)}/events"
    last_id = None if after is None else str(after)
    budget, after_s, has_begun = RetryBudget(retries), 0.0, False
    while True:
        more = {} if last_id is None else {"Last-Event-ID": last_id}
        opening = yield Subscribe(_call("GET", path, b"", budget, after_s, more))
        wait_s = budget.judged(opening)
        if wait_s is None:
            _require_events(opening)
            opened_s = retries.clock()
            parts, refused = _Parser(), None
            while refused is None and isinstance(heard := (yield Receive()), bytes):
                for each in parts.feed(heard):
                    if each.name == "error":  # such as a key that was revoked
                        refused = _problem_in(each)
                        break
                    last_id = last_id if each.event_id is None else each.event_id
                    if each.name != "open" or not has_begun:
                        yield Deliver(_session_event(each))
                    has_begun = True
                    if each.name == "end":
                        return
            if retries.clock() - opened_s > retries.longest_wait_s:
                budget = RetryBudget(retries)  # it was heard for a while: this is another cut
            wait_s = budget.judged(refused or heard or NoResponse("the stream of events ended"))
        assert wait_s is not None, "what is lost is tried again"
        after_s = wait_s


def written(session: SessionState, **writing: Unpack[Writing]) -> EventFlow[str]:
    """Have a model write on, and tell the text as it is written; it then counts as one step.

    Who stops listening does not stop what is committed: the session finds out before its next
    operation, by sending the request again.
    """
    with session.alone():
        yield from session.settled()
        call = session.call("generate", None, writing)
        try:
            yield from _written(session, call)
        except GeneratorExit:
            session.abandon([Sent(session.count, call)])
            raise


def _written(session: SessionState, call: Request) -> EventFlow[str]:
    budget, after_s, told, has_caught_up = RetryBudget(session.retries), 0.0, "", False
    while True:
        opening = yield Subscribe(_call(call.method, call.path, call.content, budget, after_s, {}))
        try:
            wait_s = budget.judged(opening)
        except ConflictError as refused:
            if has_caught_up:
                raise
            has_caught_up = True  # the store may have gone back
            for lost in session.lost_since(refused, session.count):
                yield from budget.answered(lost.call)
            continue
        if wait_s is None:
            _require_events(opening)
            is_replayed = opening.is_replayed
            heard_text, parts, outcome = "", _Parser(), None
            while outcome is None and isinstance(heard := (yield Receive()), bytes):
                for each in parts.feed(heard):
                    data = json.loads(each.data)
                    if each.name == "text":
                        heard_text += data["text"]
                        told, rest = _further(told, heard_text)
                        if rest:
                            yield Deliver(rest)
                    elif each.name == "restart":
                        heard_text = ""
                    elif each.name == "done":
                        session.advance(
                            Sent(session.count, call), reply_of(data, is_replayed=is_replayed)
                        )
                        return
                    elif each.name == "error":
                        outcome = _problem_in(each)
            wait_s = budget.judged(outcome or heard or NoResponse("the text ended in the middle"))
        assert wait_s is not None, "what is lost is tried again"
        after_s = wait_s


def _further(told: str, heard: str) -> tuple[str, str]:
    """What is told with what was heard now, and what of it is new."""
    if told.startswith(heard):
        return told, ""
    if not heard.startswith(told):
        raise ClientError(
            f"the text begins otherwise than what was told of it ({told[:40]!r}…): another client"
            " was first; read the session, and have it write again"
        )
    return heard, heard[len(told) :]


def _call(
    method: str,
    path: str,
    content: bytes,
    budget: RetryBudget,
    after_s: float,
    more: dict[str, str],
) -> Request:
    timeout_s = budget.timeout_s(f"{method} {path}", after_s)
    headers = {"Accept": EVENTS} | more
    return Request(method, path, content, after_s, timeout_s, headers=headers, silence_s=_SILENCE_S)


def _require_events(opening: Response) -> None:
    if not is_events(opening.headers):
        opening.body()  # says what this is instead, where it is no JSON
        raise ClientError(f"expected {EVENTS}, found {opening.headers.get('content-type')}")


def _problem_in(event: _Event) -> Response:
    """As it would have been answered before the stream."""
    problem = json.loads(event.data)
    wait_s = problem.get("retry_after_s")
    headers = {} if wait_s is None else {"retry-after": str(math.ceil(wait_s))}
    return Response(int(problem.get("status", 500)), headers, event.data.encode())


def _session_event(event: _Event) -> SessionEvent:
    step = event.event_id
    return SessionEvent(event.name, None if step is None else int(step), json.loads(event.data))
