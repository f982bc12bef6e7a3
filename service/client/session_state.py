"""One session as its client knows it, without I/O: numbers of steps, retries and lost steps.

Rule 1: a step carries its number, and `count` changes only when the reply is received. An operation
        without a reply changes nothing here, so it is safe to repeat unchanged.
Rule 2: the newest requests are kept, up to `resend_bytes`. If the store fails over and loses steps,
        the service's `expected_step` is less than `count`, and they are sent again in order.
Rule 3: an `expected_step` greater than `count` means that another client steps the session: an
        error.
Rule 4: one operation at a time; an open pipeline (`pipeline.py`) counts as one. Requests that it
        leaves without a reply are sent again before the next operation.
"""

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, Unpack

from service.client import json_values
from service.client.problems import (
    ClientError,
    ConflictError,
    ProblemError,
    SteppedElsewhereError,
    StepsLostError,
)
from service.client.requests import (
    Json,
    Observed,
    Opening,
    Rows,
    StepReply,
    Writing,
    close_session,
    name_for,
    request_for,
    session_path,
    step_reply,
)
from service.client.retry import NoResponse, Request, Response, Retries, RetryBudget

T = TypeVar("T")
Flow = Generator[Request, Response | NoResponse, T]
RESEND_BYTES = 1_048_576
"""The default size of the requests kept for each session."""
ELSEWHERE = frozenset({"step-conflict", "replay-expired"})


class Sent(NamedTuple):
    """A request that steps the session, and the count that it starts from."""

    from_step: int
    request: Request

    def moved_to(self, path: str) -> "Sent":
        """The same request for the session at `path`."""
        operation = self.request.path.rpartition("/")[2]
        return self._replace(request=self.request._replace(path=f"{path}/{operation}"))


class SessionState:
    """The protocol of one session. `prediction` is that of the last reply."""

    def __init__(
        self, retries: Retries, resend_bytes: int, described: Json, sent: Sequence[Sent] = ()
    ) -> None:
        self.name: str = described["session"]
        self.model: str = described["model"]
        self.version: str = described["version"]
        self.count: int = described["step"]
        self.prediction: Json | None = described.get("prediction")
        self.retries = retries
        self._resend_bytes = resend_bytes
        self._sent = deque(sent)
        self._sent_bytes = sum(len(each.request.content) for each in sent)
        self._abandoned = deque[Sent]()
        self._is_busy = False

    def describe(self) -> str:
        return f"{self.name!r} model={self.model!r} version={self.version!r} step={self.count}"

    @property
    def path(self) -> str:
        return session_path(self.name)

    def step(self, rows: Rows | None, **observed: Unpack[Observed]) -> Flow[StepReply]:
        with self.exclusive():
            yield from self.settle()
            return (yield from self.send_step(self.request("steps", rows, observed)))

    def generate(self, **writing: Unpack[Writing]) -> Flow[StepReply]:
        with self.exclusive():
            yield from self.settle()
            return (yield from self.send_step(self.request("generate", None, writing)))

    def preview(self, rows: Rows | None, **observed: Unpack[Observed]) -> Flow[StepReply]:
        with self.exclusive():
            yield from self.settle()
            request = self.request("preview", rows, observed)
            return step_reply((yield from self._send_at_count(request)))

    def fork(
        self, session: str | None, ttl_s: float | None, metadata: Mapping[str, Any] | None
    ) -> "Flow[SessionState]":
        with self.exclusive():
            yield from self.settle()
            members = {"session": name_for(session), "ttl_s": ttl_s, "metadata": metadata}
            body = {name: value for name, value in members.items() if value is not None}
            request = request_for("POST", f"{self.path}/fork", body)
            forked = (yield from RetryBudget(self.retries).run(request)).body()
            if forked["step"] > self.count:
                raise self.ahead_error(forked["step"])
            # If the store lost steps, the fork is behind: it resends them at its first step.
            path = session_path(forked["session"])
            sent = [sent.moved_to(path) for sent in self._sent]
            forked["step"] = self.count
            return SessionState(self.retries, self._resend_bytes, forked, sent)

    def rewind(self, step: int) -> Flow[None]:
        with self.exclusive():
            yield from self.settle()
            request = request_for("POST", f"{self.path}/rewind", {"step": step})
            self._reset_to((yield from RetryBudget(self.retries).run(request)).body())

    def upgrade(self, version: str, policy: str, *, force: bool) -> Flow[Json]:
        with self.exclusive():
            yield from self.settle()
            body = {"version": version, "policy": policy} | ({"force": True} if force else {})
            request = request_for("POST", f"{self.path}/upgrade", body)
            described = (yield from RetryBudget(self.retries).run(request)).body()
            self._reset_to(described)
            return described

    def read(self, what: str = "") -> Flow[Response]:
        with self.exclusive():
            yield from self.settle()
            return (yield from RetryBudget(self.retries).run(Request("GET", self.path + what)))

    def close(self) -> Flow[None]:
        with self.exclusive():
            yield from close_session(self.retries, self.name)

    def request(self, what: str, rows: Rows | None, fields: Mapping[str, Any]) -> Request:
        """A request that continues at `count`."""
        return self.request_at(self.count, what, rows, fields)

    def request_at(
        self, step: int, what: str, rows: Rows | None, fields: Mapping[str, Any]
    ) -> Request:
        body = {"step": step} | json_values.fields_of(rows, fields)
        return request_for("POST", f"{self.path}/{what}", body)

    def send_step(self, request: Request) -> Flow[StepReply]:
        """Send a request that continues at `count`; returns its reply."""
        reply = step_reply((yield from self._send_at_count(request)))
        self.advance(Sent(self.count, request), reply)
        return reply

    def advance(self, sent: Sent, reply: StepReply) -> None:
        """Set `count` by the reply to a request, and keep the request."""
        self._sent.append(sent)
        self._sent_bytes += len(sent.request.content)
        while self._sent_bytes > self._resend_bytes:
            self._sent_bytes -= len(self._sent.popleft().request.content)
        self.count = reply.step
        self.prediction = reply.predictions[-1] if reply.predictions else reply.prediction

    def abandon(self, unanswered: Sequence[Sent]) -> None:
        """Note requests without a reply, to be sent again before the next operation."""
        self._abandoned.extend(unanswered)

    def settle(self) -> Flow[None]:
        """Send abandoned requests again."""
        while self._abandoned:
            try:
                yield from self.send_step(self._abandoned[0].request)
            except ProblemError:  # neither this one nor those after it were applied
                self._abandoned.clear()
            else:
                self._abandoned.popleft()

    def _reset_to(self, described: Json) -> None:
        """After a rewind or upgrade, the requests sent before do not lead to the state."""
        self.count, self.version = described["step"], described["version"]
        self.prediction = described.get("prediction")
        self._sent.clear()
        self._sent_bytes = 0

    def _send_at_count(self, request: Request) -> Flow[Response]:
        """The response to `request`, for which the session must be at `count`."""
        budget = RetryBudget(self.retries)
        due = deque([Sent(self.count, request)])
        while True:
            try:
                response = yield from budget.run(due[0].request)
            except ConflictError as conflict:
                lost = self.lost_since(conflict, due[0].from_step)
                again = [*lost, Sent(self.count, request)]
                first = again[0].request._replace(after_s=budget.wait_s())
                due = deque([again[0]._replace(request=first), *again[1:]])
                continue
            due.popleft()
            if not due:
                return response

    def lost_since(self, conflict: ConflictError, sent_step: int) -> list[Sent]:
        """The requests to send again before the session is at `count`."""
        expected = conflict.members.get("expected_step")
        if conflict.code not in ELSEWHERE or not isinstance(expected, int):
            raise conflict
        if expected == sent_step:  # refused at the expected step: a retry would not help
            raise conflict
        if expected > self.count:
            raise self.ahead_error(expected) from conflict
        return self.lost_from(expected)

    def lost_from(self, step: int) -> list[Sent]:
        """The requests that bring a session at `step` to `count`.

        Raises:
            StepsLostError: some of them are no longer kept.
        """
        lost = [sent for sent in self._sent if sent.from_step >= step]
        if step < self.count and (not lost or lost[0].from_step != step):
            oldest = self._sent[0].from_step if self._sent else self.count
            raise StepsLostError(
                "steps-lost",
                409,
                f"session {self.name!r} went back to step {step}; this client had replies up to"
                f" step {self.count} and keeps its requests from step {oldest}: open a new session"
                " from your own history, and give the client more resend_bytes",
                {"expected_step": step},
            )
        return lost

    def ahead_error(self, expected: int) -> SteppedElsewhereError:
        return SteppedElsewhereError(
            "stepped-elsewhere",
            409,
            f"session {self.name!r} is at step {expected}, but this client brought it to step"
            f" {self.count}: another client steps it too; step a session from one client, or open"
            ' it with if_exists="resume"',
            {"expected_step": expected},
        )

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Refuse every other operation of the session meanwhile."""
        if self._is_busy:
            raise ClientError(
                f"session {self.name!r} already has an operation in progress: wait for its end"
                " before the next"
            )
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False


def open_session(
    retries: Retries, resend_bytes: int, model: str, **opening: Unpack[Opening]
) -> Flow[SessionState]:
    if opening.get("history") is not None:
        opening["history"] = json_values.instance_of(opening["history"])
    body = {"model": model} | dict(opening) | {"session": name_for(opening.get("session"))}
    response = yield from RetryBudget(retries).run(request_for("POST", "/v1/sessions", body))
    return SessionState(retries, resend_bytes, response.body())


def resume(retries: Retries, resend_bytes: int, session: str) -> Flow[SessionState]:
    response = yield from RetryBudget(retries).run(Request("GET", session_path(session)))
    return SessionState(retries, resend_bytes, response.body())


def restore(
    retries: Retries, resend_bytes: int, session: str, snapshot: bytes, replaces: bool
) -> Flow[SessionState]:
    path = f"{session_path(session)}/snapshot" + ("?replace=true" if replaces else "")
    request = Request("PUT", path, snapshot, content_type="application/vnd.carry.snapshot")
    response = yield from RetryBudget(retries).run(request)
    return SessionState(retries, resend_bytes, response.body())
