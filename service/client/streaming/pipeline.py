"""Steps of one session over a WebSocket, many in flight, without I/O: flows of effects.

Rule 1: at most as many requests are in flight as the session has kept replies. So after a cut each
        of them can be sent again and gets its reply.
Rule 2: every failure (a cut, a close, an overload, a store that lost steps) has one remedy: connect
        again, send the lost steps over HTTP, and send again every request without a reply.
Rule 3: a refused request raises its error in place of its reply. The requests after it were not
        applied, because their numbers no longer fit, and are dropped.
Rule 4: after a cancelled flow the state of the connection is unknown: the next flow connects again.
"""

import json
from collections import deque
from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar, Unpack

from service.client import json_values
from service.client.problems import ClientError, ConflictError, InvalidRequestError, problem_of
from service.client.requests import Json, Observed, Rows, StepReply, reply_of
from service.client.retry import LATER, NoResponse, Request, Response, RetryBudget
from service.client.session_state import ELSEWHERE, Sent, SessionState

T = TypeVar("T")

_MAX_BYTES = 512 * 1024
"""Limit in flight: half of what the service reads ahead, so that it keeps reading."""
_TOO_BIG = 1009


class Connect(NamedTuple):
    """Connect and wait for the first message: the outcome is that, a refusal, or a failure."""

    path: str
    after_s: float
    timeout_s: float


class Send(NamedTuple):
    """Send messages: the outcome is None, or a failure."""

    messages: list[bytes]


class Receive(NamedTuple):
    """Wait for the next message: the outcome is that, or a failure."""

    timeout_s: float


class Close(NamedTuple):
    """Close the connection."""


Effect = Request | Connect | Send | Receive | Close
Outcome = bytes | Response | NoResponse | None
WireFlow = Generator[Effect, Any, T]


class Pipeline:
    """Owned by one `with` of a session, which has no other operation meanwhile."""

    def __init__(self, session: SessionState) -> None:
        self._session = session
        self._unanswered = deque[Sent]()
        self._num_sent = 0
        self._in_flight_bytes = 0
        self._ready = deque[StepReply]()
        self._next_step: int | None = session.count
        self._window = 1
        self._is_connected = False
        self._is_careful = False
        """Sends one request at a time, to find the one that is too big."""

    @property
    def num_unanswered(self) -> int:
        """Requests whose reply the user has not received."""
        return len(self._ready) + len(self._unanswered)

    def begin(self) -> WireFlow[None]:
        """Connect at the session's count."""
        yield from self._session.settle()
        self._next_step = self._session.count
        yield from self._connect(RetryBudget(self._session.retries))

    def send(self, rows: Rows | None, **observed: Unpack[Observed]) -> WireFlow[None]:
        """Number a request and send it, once fewer are in flight than allowed."""
        fields = json_values.fields_of(rows, observed)
        if not self._is_connected:
            yield from self._connect(RetryBudget(self._session.retries))
        while not self._has_room():
            self._ready.append((yield from self._receive_reply()))
        assert self._next_step is not None, "_has_room says so"
        request = self._session.request_at(self._next_step, "steps", None, fields)
        self._unanswered.append(Sent(self._next_step, request))
        self._in_flight_bytes += len(request.content)
        self._next_step = _step_after(self._next_step, fields)
        yield from self._flush()

    def receive(self) -> WireFlow[StepReply]:
        """The reply to the oldest request without one."""
        if self._ready:
            return self._ready.popleft()
        if not self._unanswered:
            raise ClientError("every request has its reply: send one before you receive")
        return (yield from self._receive_reply())

    def step(self, rows: Rows | None, **observed: Unpack[Observed]) -> WireFlow[StepReply]:
        """Send a request and wait for its reply."""
        if self.num_unanswered:
            raise ClientError(
                f"{self.num_unanswered} requests have no reply yet: receive their replies before"
                " a step"
            )
        yield from self.send(rows, **observed)
        return (yield from self.receive())

    def take_ready(self) -> StepReply | None:
        """A reply that was received already, or None."""
        return self._ready.popleft() if self._ready else None

    def drain(self) -> WireFlow[None]:
        """Wait for all replies, then close."""
        while self._unanswered:
            self._ready.append((yield from self._receive_reply()))
        yield from self._disconnect()

    def unanswered(self) -> list[Sent]:
        """Requests that may have been applied, for the session to send again."""
        return list(self._unanswered)

    def _has_room(self) -> bool:
        if not self._unanswered:
            return True
        return (
            self._next_step is not None
            and len(self._unanswered) < self._max_in_flight
            and self._in_flight_bytes <= _MAX_BYTES
        )

    @property
    def _max_in_flight(self) -> int:
        return 1 if self._is_careful else self._window

    def _receive_reply(self) -> WireFlow[StepReply]:
        budget = RetryBudget(self._session.retries)
        after_s, has_conflict = 0.0, False
        while True:
            if not self._is_connected:
                yield from self._connect(budget, after_s)
            yield from self._flush()
            message = yield from self._receive_message(budget)
            if isinstance(message, NoResponse):
                after_s = budget.wait_after(message) or 0.0
                yield from self._disconnect()
                self._note_if_too_big(message)
                continue
            body = json.loads(message)
            if "status" not in body:
                return self._accept(reply_of(body, is_replayed=body.get("replayed", False)))
            yield from self._disconnect()
            problem = problem_of(body["status"], message)
            if body["status"] in LATER:
                later = Response(body["status"], {}, message)
                after_s = (budget.wait_after(later) or 0.0) + float(body.get("retry_after_s") or 0)
            elif (
                isinstance(problem, ConflictError)
                and problem.code in ELSEWHERE
                and not has_conflict
            ):
                after_s, has_conflict = budget.wait_s(), True  # the store may have lost steps
            else:
                self._drop()
                raise problem

    def _connect(self, budget: RetryBudget, after_s: float = 0.0) -> WireFlow[None]:
        path = f"{self._session.path}/stream"
        wait_s: float | None = after_s
        while wait_s is not None:
            timeout_s = budget.timeout_s(f"WS {path}", wait_s)
            outcome = yield Connect(path, wait_s, timeout_s)
            wait_s = None if isinstance(outcome, bytes) else budget.wait_after(outcome)
        hello = json.loads(outcome)
        if self._next_step is not None and hello["step"] > self._next_step:
            yield from self._disconnect()
            raise self._session.ahead_error(hello["step"])
        for lost in self._session.lost_from(hello["step"]):
            yield from budget.run(lost.request)
        self._window, self._num_sent, self._is_connected = max(1, hello["replay"]), 0, True

    def _flush(self) -> WireFlow[None]:
        """Send what was not sent on this connection; a failure shows at the next receive."""
        due = list(self._unanswered)[self._num_sent : self._max_in_flight]
        if not due:
            return
        self._num_sent += len(due)
        is_sent = False
        try:
            yield Send([sent.request.content for sent in due])
            is_sent = True
        finally:  # also if the flow is cancelled
            self._is_connected = self._is_connected and is_sent

    def _receive_message(self, budget: RetryBudget) -> WireFlow[bytes | NoResponse]:
        timeout_s = budget.timeout_s(f"WS {self._session.path}/stream")
        message: bytes | NoResponse = yield Receive(timeout_s)
        return message

    def _disconnect(self) -> WireFlow[None]:
        self._is_connected = False
        yield Close()

    def _accept(self, reply: StepReply) -> StepReply:
        sent = self._unanswered.popleft()
        self._num_sent -= 1
        self._in_flight_bytes -= len(sent.request.content)
        self._is_careful = False
        self._session.advance(sent, reply)
        if not self._unanswered:
            self._next_step = self._session.count
        return reply

    def _note_if_too_big(self, lost: NoResponse) -> None:
        if lost.code != _TOO_BIG:
            return
        if not self._is_careful:
            self._is_careful = True
            return
        size = len(self._unanswered[0].request.content)
        self._drop()
        raise InvalidRequestError(
            "message-too-big",
            413,
            f"a request of {size} bytes is larger than the server's limit for a"
            " WebSocket message: step the session without a stream, or in parts",
            {},
        )

    def _drop(self) -> None:
        self._unanswered.clear()
        self._num_sent = self._in_flight_bytes = 0
        self._is_careful = False
        self._next_step = self._session.count


def _step_after(step: int, fields: Json) -> int | None:
    """The count after a request; None if only its reply tells."""
    if "observations" in fields:
        return step + len(fields["observations"])
    return step + 1 if "text" in fields else None
