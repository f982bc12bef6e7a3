"""Steps of many sessions in one request, each exactly once, without I/O.

Rule 1: a row is a session's next request, numbered by it; what is answered counts there.
Rule 2: a row that fails is tried once more alone, which waits out "later" and catches up with a
        store that went back; what it then comes to is its result. The others are not held up.
Rule 3: a row that is too large to go with others goes alone; where the rows of a request are
        refused together, because of one of them, each goes alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from service.client.problems import ClientError, InvalidRequestError, ProblemError
from service.client.requests import Json, Rows, StepReply, reply_of
from service.client.retry import Request, Retries, RetryBudget
from service.client.session_state import Flow, Sent, SessionState

_MAX_BYTES = 200 * 1024
_MAX_ROWS = 10_000
"""Of one request, as the service bounds them; more go in several, one after the other."""

Result = StepReply | ProblemError


def stepped_many(
    retries: Retries, asked: Sequence[tuple[SessionState, Rows]]
) -> Flow[list[Result]]:
    """The reply to each session's rows, or why there is none, in the order they were given."""
    with ExitStack() as alone:
        if len({id(session) for session, _ in asked}) < len(asked):
            raise ClientError("a session was given twice: give it all its rows at once")
        for session, _ in asked:
            alone.enter_context(session.alone())
        for session, _ in asked:
            yield from session.settled()
        calls = [(session, session.call("steps", rows, {})) for session, rows in asked]
        results: list[Result] = []
        for part in _parts(calls):
            results += yield from _results(retries, part)
        return results


def _results(retries: Retries, part: Sequence[tuple[SessionState, Request]]) -> Flow[list[Result]]:
    rows: list[Json] | list[None] = [None] * len(part)
    if len(part) > 1:
        body = b'{"steps": [' + b", ".join(_row(*each) for each in part) + b"]}"
        try:
            answer = yield from RetryBudget(retries).answered(Request("POST", "/v1/steps", body))
            rows = answer.body()["results"]
        except InvalidRequestError:  # nothing of it was applied
            pass
    results: list[Result] = []
    for (session, call), row in zip(part, rows, strict=True):
        results.append((yield from _result(session, call, row)))
    return results


def _result(session: SessionState, call: Request, row: Json | None) -> Flow[Result]:
    if row is not None and row["status"] == 200:
        reply = reply_of(row, is_replayed=bool(row.get("replayed")))
        session.advance(Sent(session.count, call), reply)
        return reply
    try:
        return (yield from session.stepped(call))
    except ProblemError as problem:
        return problem


def _row(session: SessionState, call: Request) -> bytes:
    """A request with the name of its session, which needs no escaping."""
    return b'{"session": "%s", ' % session.name.encode() + call.content.removeprefix(b"{")


def _parts(
    calls: Sequence[tuple[SessionState, Request]],
) -> Iterator[list[tuple[SessionState, Request]]]:
    part: list[tuple[SessionState, Request]] = []
    num_bytes = 0
    for session, call in calls:
        size = len(call.content) + len(session.name) + 20
        if part and (num_bytes + size > _MAX_BYTES or len(part) == _MAX_ROWS):
            yield part
            part, num_bytes = [], 0
        part.append((session, call))
        num_bytes += size
    if part:
        yield part
