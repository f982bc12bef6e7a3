"""One session as its client knows it, without I/O: it counts, repeats, and goes back where it must.

Rule 1: a step names its number, and `count` moves only when it was answered. An operation that
        went unanswered has left everything as it was: to repeat it as it was is exact.
Rule 2: answered steps are kept, newest first to stay, up to `resend_bytes`. A store that failed
        over may have lost them; `expected_step` then lies behind, and they are sent again in order.
Rule 3: `expected_step` ahead means that somebody else steps the session: nothing is guessed.
Rule 4: one operation at a time; a pipeline (`pipeline.py`) is one as long as it is open. What it
        left without an answer is sent again before the next.
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
    call_for,
    closed,
    name_for,
    session_path,
    step_reply,
)
from service.client.retry import NoResponse, Request, Response, Retries, RetryBudget

T = TypeVar("T")
Flow = Generator[Request, Response | NoResponse, T]
RESEND_BYTES = 1_048_576
"""Of requests, kept for each session where nobody says otherwise."""
ELSEWHERE = frozenset({"step-conflict", "replay-expired"})


class Sent(NamedTuple):
    """An answered step: the count that it started from, and the call."""

    from_step: int
    call: Request

    def of(self, path: str) -> "Sent":
        """The same of another session."""
        what = self.call.path.rpartition("/")[2]
        return self._replace(call=self.call._replace(path=f"{path}/{what}"))


class SessionState:
    """The protocol of one session. `prediction` is the last one that was answered."""

    def __init__(
        self, retries: Retries, resend_bytes: int, opened: Json, kept: Sequence[Sent] = ()
    ) -> None:
        self.name: str = opened["session"]
        self.model: str = opened["model"]
        self.version: str = opened["version"]
        self.count: int = opened["step"]
        self.prediction: Json | None = opened.get("prediction")
        self.retries = retries
        self._resend_bytes = resend_bytes
        self._kept = deque(kept)
        self._kept_bytes = sum(len(sent.call.content) for sent in kept)
        self._abandoned = deque[Sent]()
        self._is_busy = False

    def described(self) -> str:
        """For people: where it stands."""
        return f"{self.name!r} model={self.model!r} version={self.version!r} step={self.count}"

    @property
    def path(self) -> str:
        return session_path(self.name)

    def step(self, rows: Rows | None, **observed: Unpack[Observed]) -> Flow[StepReply]:
        with self.alone():
            yield from self.settled()
            return (yield from self.stepped(self.call("steps", rows, observed)))

    def generate(self, **writing: Unpack[Writing]) -> Flow[StepReply]:
        with self.alone():
            yield from self.settled()
            return (yield from self.stepped(self.call("generate", None, writing)))

    def preview(self, rows: Rows | None, **observed: Unpack[Observed]) -> Flow[StepReply]:
        with self.alone():
            yield from self.settled()
            call = self.call("preview", rows, observed)
            return step_reply((yield from self._caught_up(call)))

    def fork(
        self, session: str | None, ttl_s: float | None, metadata: Mapping[str, Any] | None
    ) -> "Flow[SessionState]":
        with self.alone():
            yield from self.settled()
            body = {"session": name_for(session), "ttl_s": ttl_s, "metadata": metadata}
            given = {key: value for key, value in body.items() if value is not None}
            call = call_for("POST", f"{self.path}/fork", given)
            opened = (yield from RetryBudget(self.retries).answered(call)).body()
            if opened["step"] > self.count:
                raise self.ahead(opened["step"])
            # One that was taken behind this count goes on by what is kept here.
            path = session_path(opened["session"])
            kept = [sent.of(path) for sent in self._kept]
            opened["step"] = self.count
            return SessionState(self.retries, self._resend_bytes, opened, kept)

    def rewind(self, step: int) -> Flow[None]:
        with self.alone():
            yield from self.settled()
            call = call_for("POST", f"{self.path}/rewind", {"step": step})
            self._moved((yield from RetryBudget(self.retries).answered(call)).body())

    def upgrade(self, version: str, policy: str, *, force: bool) -> Flow[Json]:
        with self.alone():
            yield from self.settled()
            body = {"version": version, "policy": policy} | ({"force": True} if force else {})
            call = call_for("POST", f"{self.path}/upgrade", body)
            told = (yield from RetryBudget(self.retries).answered(call)).body()
            self._moved(told)
            return told

    def read(self, what: str = "") -> Flow[Response]:
        with self.alone():
            yield from self.settled()
            return (yield from RetryBudget(self.retries).answered(Request("GET", self.path + what)))

    def close(self) -> Flow[None]:
        with self.alone():
            yield from closed(self.retries, self.name)

    def call(self, what: str, rows: Rows | None, fields: Mapping[str, Any]) -> Request:
        """A request that goes on from `count`."""
        return self.call_at(self.count, what, rows, fields)

    def call_at(
        self, step: int, what: str, rows: Rows | None, fields: Mapping[str, Any]
    ) -> Request:
        body = {"step": step} | json_values.fields_of(rows, fields)
        return call_for("POST", f"{self.path}/{what}", body)

    def stepped(self, call: Request) -> Flow[StepReply]:
        """The answer to a request that goes on from `count`."""
        reply = step_reply((yield from self._caught_up(call)))
        self.advance(Sent(self.count, call), reply)
        return reply

    def advance(self, sent: Sent, reply: StepReply) -> None:
        """A request was answered: count on, and keep it."""
        self._kept.append(sent)
        self._kept_bytes += len(sent.call.content)
        while self._kept_bytes > self._resend_bytes:
            self._kept_bytes -= len(self._kept.popleft().call.content)
        self.count = reply.step
        self.prediction = reply.predictions[-1] if reply.predictions else reply.prediction

    def abandon(self, unanswered: Sequence[Sent]) -> None:
        """A pipeline ended without these answers: find out before anything else is asked."""
        self._abandoned.extend(unanswered)

    def settled(self) -> Flow[None]:
        while self._abandoned:
            try:
                yield from self.stepped(self._abandoned[0].call)
            except ProblemError:  # neither it nor what was sent behind it was applied
                self._abandoned.clear()
            else:
                self._abandoned.popleft()

    def _moved(self, told: Json) -> None:
        """The session stands elsewhere: what was sent before would not lead there again."""
        self.count, self.version = told["step"], told["version"]
        self.prediction = told.get("prediction")
        self._kept.clear()
        self._kept_bytes = 0

    def _caught_up(self, call: Request) -> Flow[Response]:
        """The answer to `call`, for which the session must stand at `count`."""
        budget = RetryBudget(self.retries)
        due = deque([Sent(self.count, call)])
        while True:
            try:
                answer = yield from budget.answered(due[0].call)
            except ConflictError as refused:
                lost = self.lost_since(refused, due[0].from_step)
                again = [*lost, Sent(self.count, call)]
                first = again[0].call._replace(after_s=budget.wait_s())
                due = deque([again[0]._replace(call=first), *again[1:]])
                continue
            due.popleft()
            if not due:
                return answer

    def lost_since(self, refused: ConflictError, asked_step: int) -> list[Sent]:
        """What must be sent again before the session stands at `count`."""
        expected = refused.members.get("expected_step")
        if refused.code not in ELSEWHERE or not isinstance(expected, int):
            raise refused
        if expected == asked_step:  # and yet it was refused
            raise refused
        if expected > self.count:
            raise self.ahead(expected) from refused
        return self.lost_from(expected)

    def lost_from(self, step: int) -> list[Sent]:
        """What a session that stands at `step` must be sent again to stand at `count`.

        Raises:
            StepsLostError: not all of it is kept.
        """
        lost = [sent for sent in self._kept if sent.from_step >= step]
        if step < self.count and (not lost or lost[0].from_step != step):
            oldest = self._kept[0].from_step if self._kept else self.count
            raise StepsLostError(
                "steps-lost",
                409,
                f"session {self.name!r} went back to step {step}, this client was answered up"
                f" to {self.count} and keeps what it sent from step {oldest}: open a session anew"
                " from your own history, or give the client more resend_bytes",
                {"expected_step": step},
            )
        return lost

    def ahead(self, expected: int) -> SteppedElsewhereError:
        return SteppedElsewhereError(
            "stepped-elsewhere",
            409,
            f"session {self.name!r} is at step {expected}, this client brought it to {self.count}:"
            ' another client steps it; let one client step it, or open it with if_exists="resume"',
            {"expected_step": expected},
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nothing else is asked of the session meanwhile."""
        if self._is_busy:
            raise ClientError(
                f"session {self.name!r} already has an operation in progress: await it before"
                " the next"
            )
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False


def opened(
    retries: Retries, resend_bytes: int, model: str, **opening: Unpack[Opening]
) -> Flow[SessionState]:
    """A session, opened or resumed."""
    if opening.get("history") is not None:
        opening["history"] = json_values.instance_of(opening["history"])
    body = {"model": model} | dict(opening) | {"session": name_for(opening.get("session"))}
    answer = yield from RetryBudget(retries).answered(call_for("POST", "/v1/sessions", body))
    return SessionState(retries, resend_bytes, answer.body())


def resumed(retries: Retries, resend_bytes: int, session: str) -> Flow[SessionState]:
    """A session that is open already."""
    answer = yield from RetryBudget(retries).answered(Request("GET", session_path(session)))
    return SessionState(retries, resend_bytes, answer.body())


def restored(
    retries: Retries, resend_bytes: int, session: str, snapshot: bytes, replaces: bool
) -> Flow[SessionState]:
    """A session from its snapshot. The same again is answered alike."""
    path = f"{session_path(session)}/snapshot" + ("?replace=true" if replaces else "")
    call = Request("PUT", path, snapshot, content_type="application/vnd.carry.snapshot")
    answer = yield from RetryBudget(retries).answered(call)
    return SessionState(retries, resend_bytes, answer.body())
