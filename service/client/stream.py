"""One session as its client knows it, without I/O: it counts, repeats, and goes back where it must.

Rule 1: a step names its number, and `count` moves only when it was answered. An operation that
        went unanswered has left everything as it was: to repeat it as it was is exact.
Rule 2: answered steps are kept, newest first to stay, up to `resend_bytes`. A store that failed
        over may have lost them; `expected_step` then lies behind, and they are sent again in order.
Rule 3: `expected_step` ahead means that somebody else steps the session: nothing is guessed.
Rule 4: one operation at a time.
"""

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, Unpack

from service.client.exchange import Answer, Call, Effort, Lost, Retries
from service.client.problems import (
    ClientError,
    ConflictError,
    NotFoundError,
    SteppedElsewhereError,
    StepsLostError,
)
from service.client.requests import (
    Json,
    Observed,
    Opening,
    Row,
    StepReply,
    call_for,
    name_for,
    session_path,
    step_reply,
)

T = TypeVar("T")
Flow = Generator[Call, Answer | Lost, T]
RESEND_BYTES = 1_048_576
"""Of requests, kept for each session where nobody says otherwise."""
_ELSEWHERE = frozenset({"step-conflict", "replay-expired"})


class Sent(NamedTuple):
    """An answered step: the count that it started from, and the call."""

    from_step: int
    call: Call


class Stream:
    """The protocol of one session. `prediction` is the last one that was answered."""

    def __init__(
        self, retries: Retries, resend_bytes: int, opened: Json, kept: Sequence[Sent] = ()
    ) -> None:
        self.name: str = opened["session"]
        self.model: str = opened["model"]
        self.version: str = opened["version"]
        self.count: int = opened["step"]
        self.prediction: Json | None = opened.get("prediction")
        self._retries = retries
        self._resend_bytes = resend_bytes
        self._kept = deque(kept)
        self._kept_bytes = sum(len(sent.call.content) for sent in kept)
        self._is_busy = False

    def step(self, rows: Sequence[Row] | None, **observed: Unpack[Observed]) -> Flow[StepReply]:
        with self._alone():
            call = self._call("steps", rows, observed)
            reply = step_reply((yield from self._caught_up(call)))
            self._keep(Sent(self.count, call))
            self.count = reply.step
            self.prediction = reply.predictions[-1] if reply.predictions else reply.prediction
            return reply

    def preview(self, rows: Sequence[Row] | None, **observed: Unpack[Observed]) -> Flow[StepReply]:
        with self._alone():
            call = self._call("preview", rows, observed)
            return step_reply((yield from self._caught_up(call)))

    def fork(
        self, session: str | None, ttl_s: float | None, metadata: Mapping[str, Any] | None
    ) -> "Flow[Stream]":
        with self._alone():
            body = {"session": name_for(session), "ttl_s": ttl_s, "metadata": metadata}
            given = {key: value for key, value in body.items() if value is not None}
            call = call_for("POST", f"{session_path(self.name)}/fork", given)
            opened = (yield from Effort(self._retries).answered(call)).body()
            if opened["step"] > self.count:
                raise self._ahead(opened["step"])
            # One that was taken behind this count goes on by what is kept here.
            path = f"{session_path(opened['session'])}/steps"
            kept = [sent._replace(call=sent.call._replace(path=path)) for sent in self._kept]
            opened["step"] = self.count
            return Stream(self._retries, self._resend_bytes, opened, kept)

    def close(self) -> Flow[None]:
        with self._alone():
            call = call_for("DELETE", session_path(self.name))
            effort = Effort(self._retries)
            try:
                yield from effort.answered(call)
            except NotFoundError:
                if effort.num_tries == 1:  # else an earlier try may have closed it
                    raise

    def _call(self, what: str, rows: Sequence[Row] | None, observed: Observed) -> Call:
        body: Json = {"step": self.count} | dict(observed)
        if rows is not None:
            body["observations"] = list(rows)
        return call_for("POST", f"{session_path(self.name)}/{what}", body)

    def _caught_up(self, call: Call) -> Flow[Answer]:
        """The answer to `call`, for which the session must stand at `count`."""
        effort = Effort(self._retries)
        due = deque([Sent(self.count, call)])
        while True:
            try:
                answer = yield from effort.answered(due[0].call)
            except ConflictError as refused:
                lost = self._lost_since(refused, due[0].from_step)
                again = [*lost, Sent(self.count, call)]
                first = again[0].call._replace(after_s=effort.wait_s())
                due = deque([again[0]._replace(call=first), *again[1:]])
                continue
            due.popleft()
            if not due:
                return answer

    def _lost_since(self, refused: ConflictError, asked_step: int) -> list[Sent]:
        """What must be sent again before the session stands at `count`."""
        expected = refused.members.get("expected_step")
        if refused.code not in _ELSEWHERE or not isinstance(expected, int):
            raise refused
        if expected == asked_step:  # and yet it was refused
            raise refused
        if expected > self.count:
            raise self._ahead(expected) from refused
        lost = [sent for sent in self._kept if sent.from_step >= expected]
        if expected < self.count and (not lost or lost[0].from_step != expected):
            oldest = self._kept[0].from_step if self._kept else self.count
            raise StepsLostError(
                "steps-lost",
                409,
                f"session {self.name!r} went back to step {expected}, this client was answered up"
                f" to {self.count} and keeps what it sent from step {oldest}: open a session anew"
                " from your own history, or give the client more resend_bytes",
                refused.members,
            ) from refused
        return lost

    def _ahead(self, expected: int) -> SteppedElsewhereError:
        return SteppedElsewhereError(
            "stepped-elsewhere",
            409,
            f"session {self.name!r} is at step {expected}, this client took it to {self.count}:"
            ' somebody else steps it; let one client step it, or open it with if_exists="resume"',
            {"expected_step": expected},
        )

    def _keep(self, sent: Sent) -> None:
        self._kept.append(sent)
        self._kept_bytes += len(sent.call.content)
        while self._kept_bytes > self._resend_bytes:
            self._kept_bytes -= len(self._kept.popleft().call.content)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._is_busy:
            raise ClientError(
                f"session {self.name!r} is being asked already: await one operation before the next"
            )
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False


def opened(
    retries: Retries, resend_bytes: int, model: str, **opening: Unpack[Opening]
) -> Flow[Stream]:
    """A session, opened or resumed."""
    body = {"model": model} | dict(opening) | {"session": name_for(opening.get("session"))}
    answer = yield from Effort(retries).answered(call_for("POST", "/v1/sessions", body))
    return Stream(retries, resend_bytes, answer.body())
