"""Steps of one session over a WebSocket, many in flight, without I/O: flows, as of a request.

Rule 1: requests are numbered as they come, and of those without an answer no more are in flight
        than the session keeps replies. So after a cut each is answered when it is sent again.
Rule 2: whatever breaks (a cut, a close, "later", a store that went back) is mended in one way:
        connect again, send by HTTP what the store lost, and send again what has no answer.
Rule 3: a refusal is raised where its answer would have come. What was sent behind it was not
        applied, because its number did not fit, and is dropped.
Rule 4: what a cancelled flow left on a connection is not known: the next one connects anew.
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
"""In flight: half of what the service reads ahead, so that it never stops reading."""
_TOO_BIG = 1009


class Connect(NamedTuple):
    """Connect and wait for the first message: outcome is that, a refusal, or what went wrong."""

    path: str
    after_s: float
    timeout_s: float


class Send(NamedTuple):
    """Send messages: outcome is nothing, or what went wrong."""

    messages: list[bytes]


class Receive(NamedTuple):
    """Wait for the next message."""

    timeout_s: float


class Close(NamedTuple):
    """Close the connection."""


Effect = Request | Connect | Send | Receive | Close
Outcome = bytes | Response | NoResponse | None
WireFlow = Generator[Effect, Any, T]


class Pipeline:
    """Owned by one `with` of a session, which does nothing else meanwhile."""

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
        """One request at a time, to find out which of them is too big."""

    @property
    def num_unanswered(self) -> int:
        """Requests whose replies were not received yet."""
        return len(self._ready) + len(self._unanswered)

    def begin(self) -> WireFlow[None]:
        """Connect, and stand where the session does."""
        yield from self._session.settled()
        self._next_step = self._session.count
        yield from self._connect(RetryBudget(self._session.retries))

    def send(self, rows: Rows | None, **observed: Unpack[Observed]) -> WireFlow[None]:
        """Number a request and send it, as soon as there is room."""
        fields = json_values.fields_of(rows, observed)
        if not self._is_connected:
            yield from self._connect(RetryBudget(self._session.retries))
        while not self._has_room():
            self._ready.append((yield from self._hear_reply()))
        assert self._next_step is not None, "there is room"
        call = self._session.call_at(self._next_step, "steps", None, fields)
        self._unanswered.append(Sent(self._next_step, call))
        self._in_flight_bytes += len(call.content)
        self._next_step = _step_after(self._next_step, fields)
        yield from self._flush()

    def receive(self) -> WireFlow[StepReply]:
        """The reply to the oldest request without one."""
        if self._ready:
            return self._ready.popleft()
        if not self._unanswered:
            raise ClientError("every request was answered: send one before you receive")
        return (yield from self._hear_reply())

    def step(self, rows: Rows | None, **observed: Unpack[Observed]) -> WireFlow[StepReply]:
        """Send a request and wait for its reply."""
        if self.num_unanswered:
            raise ClientError(
                f"{self.num_unanswered} requests are unanswered: receive their replies before a"
                " step whose own reply you want"
            )
        yield from self.send(rows, **observed)
        return (yield from self.receive())

    def take_ready(self) -> StepReply | None:
        """A reply that is there already."""
        return self._ready.popleft() if self._ready else None

    def drain(self) -> WireFlow[None]:
        """Wait until everything that was sent is answered, then close."""
        while self._unanswered:
            self._ready.append((yield from self._hear_reply()))
        yield from self._disconnect()

    def abandoned(self) -> list[Sent]:
        """What may or may not have been applied; the session finds out at its next request."""
        return list(self._unanswered)

    def _has_room(self) -> bool:
        if not self._unanswered:
            return True
        window = 1 if self._is_careful else self._window
        return (
            self._next_step is not None
            and len(self._unanswered) < window
            and self._in_flight_bytes <= _MAX_BYTES
        )

    def _hear_reply(self) -> WireFlow[StepReply]:
        budget = RetryBudget(self._session.retries)
        after_s, has_conflict = 0.0, False
        while True:
            if not self._is_connected:
                yield from self._connect(budget, after_s)
            yield from self._flush()
            heard = yield from self._hear(budget)
            if isinstance(heard, NoResponse):
                after_s = budget.judged(heard) or 0.0
                yield from self._disconnect()
                self._note_if_too_big(heard)
                continue
            body = json.loads(heard)
            if "status" not in body:
                return self._answered(reply_of(body, is_replayed=body.get("replayed", False)))
            yield from self._disconnect()
            refused = problem_of(body["status"], heard)
            if body["status"] in LATER:
                later = Response(body["status"], {}, heard)
                after_s = (budget.judged(later) or 0.0) + float(body.get("retry_after_s") or 0)
            elif (
                isinstance(refused, ConflictError)
                and refused.code in ELSEWHERE
                and not has_conflict
            ):
                after_s, has_conflict = budget.wait_s(), True  # the store may have gone back
            else:
                self._drop()
                raise refused

    def _connect(self, budget: RetryBudget, after_s: float = 0.0) -> WireFlow[None]:
        path = f"{self._session.path}/stream"
        wait_s: float | None = after_s
        while wait_s is not None:
            timeout_s = budget.timeout_s(f"WS {path}", wait_s)
            outcome = yield Connect(path, wait_s, timeout_s)
            wait_s = None if isinstance(outcome, bytes) else budget.judged(outcome)
        hello = json.loads(outcome)
        if self._next_step is not None and hello["step"] > self._next_step:
            yield from self._disconnect()
            raise self._session.ahead(hello["step"])
        for lost in self._session.lost_from(hello["step"]):
            yield from budget.answered(lost.call)
        self._window, self._num_sent, self._is_connected = max(1, hello["replay"]), 0, True

    def _flush(self) -> WireFlow[None]:
        """Send what was not sent over this connection; a failure shows when something is heard."""
        most = 1 if self._is_careful else self._window
        due = list(self._unanswered)[self._num_sent : most]
        if not due:
            return
        self._num_sent += len(due)
        is_known = False
        try:
            yield Send([sent.call.content for sent in due])
            is_known = True
        finally:
            self._is_connected = self._is_connected and is_known

    def _hear(self, budget: RetryBudget) -> WireFlow[bytes | NoResponse]:
        heard: bytes | NoResponse = yield Receive(
            budget.timeout_s(f"WS {self._session.path}/stream")
        )
        return heard

    def _disconnect(self) -> WireFlow[None]:
        self._is_connected = False
        yield Close()

    def _answered(self, reply: StepReply) -> StepReply:
        sent = self._unanswered.popleft()
        self._num_sent -= 1
        self._in_flight_bytes -= len(sent.call.content)
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
        size = len(self._unanswered[0].call.content)
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
    """The count after a request; None where only its answer tells."""
    if "observations" in fields:
        return step + len(fields["observations"])
    return step + 1 if "text" in fields else None
