"""Steps of many sessions in one request, each exactly once, without I/O.

Rule 1: a row is the next request of its session, with its number; its reply advances the session.
Rule 2: a row that fails is sent again as a request of its own, with retries and lost steps as for
        any step. The other rows are not affected.
Rule 3: a row that is too large for a shared request is sent as its own; if a shared request is
        refused because of one row, each of its rows is sent as its own.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from service.client.problems import ClientError, InvalidRequestError, ProblemError
from service.client.requests import Json, Rows, StepReply, reply_of
from service.client.retry import Request, Retries, RetryBudget
from service.client.session_state import Flow, Sent, SessionState

_MAX_BYTES = 200 * 1024
_MAX_ROWS = 10_000
"""Limits of one request, from those of the service; more rows need several requests."""

Result = StepReply | ProblemError


def step_sessions(
    retries: Retries, inputs: Sequence[tuple[SessionState, Rows]]
) -> Flow[list[Result]]:
    """The reply to each session's rows, or its error, in the order of `inputs`."""
    with ExitStack() as operations:
        if len({id(session) for session, _ in inputs}) < len(inputs):
            raise ClientError("a session is listed twice: pass all of its rows at once")
        for session, _ in inputs:
            operations.enter_context(session.exclusive())
        for session, _ in inputs:
            yield from session.settle()
        requests = [(session, session.request("steps", rows, {})) for session, rows in inputs]
        results: list[Result] = []
        for part in _parts(requests):
            results += yield from _results(retries, part)
        return results


def _results(retries: Retries, part: Sequence[tuple[SessionState, Request]]) -> Flow[list[Result]]:
    rows: list[Json] | list[None] = [None] * len(part)
    if len(part) > 1:
        body = b'{"steps": [' + b", ".join(_row(*each) for each in part) + b"]}"
        try:
            response = yield from RetryBudget(retries).run(Request("POST", "/v1/steps", body))
            rows = response.body()["results"]
        except InvalidRequestError:  # no row was applied
            pass
    results: list[Result] = []
    for (session, request), row in zip(part, rows, strict=True):
        results.append((yield from _result(session, request, row)))
    return results


def _result(session: SessionState, request: Request, row: Json | None) -> Flow[Result]:
    if row is not None and row["status"] == 200:
        reply = reply_of(row, is_replayed=bool(row.get("replayed")))
        session.advance(Sent(session.count, request), reply)
        return reply
    try:
        return (yield from session.send_step(request))
    except ProblemError as problem:
        return problem


def _row(session: SessionState, request: Request) -> bytes:
    """A request with its session's name, which needs no escaping."""
    return b'{"session": "%s", ' % session.name.encode() + request.content.removeprefix(b"{")


def _parts(
    requests: Sequence[tuple[SessionState, Request]],
) -> Iterator[list[tuple[SessionState, Request]]]:
    part: list[tuple[SessionState, Request]] = []
    num_bytes = 0
    for session, request in requests:
        size = len(request.content) + len(session.name) + 20
        if part and (num_bytes + size > _MAX_BYTES or len(part) == _MAX_ROWS):
            yield part
            part, num_bytes = [], 0
        part.append((session, request))
        num_bytes += size
    if part:
        yield part
