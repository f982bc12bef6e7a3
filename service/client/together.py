"""Steps of many sessions in one request, each exactly once, without I/O.

Rule 1: a row is a session's next request, numbered by it; what is answered counts there.
Rule 2: a row that fails is tried once more alone, which waits out "later" and catches up with a
        store that went back; what it then comes to is its result. The others are not held up.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from service.client.exchange import Call, Effort, Retries
from service.client.problems import ClientError, ProblemError
from service.client.requests import Json, Row, StepReply, reply_of
from service.client.stream import Flow, Sent, Stream

_MAX_BYTES = 200 * 1024
_MAX_ROWS = 10_000
"""Of one request, as the service bounds them; more go in several, one after the other."""

Result = StepReply | ProblemError


def stepped_together(
    retries: Retries, asked: Sequence[tuple[Stream, Sequence[Row]]]
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
            body = b'{"steps": [' + b", ".join(_row(*each) for each in part) + b"]}"
            answer = yield from Effort(retries).answered(Call("POST", "/v1/steps", body))
            for (session, call), row in zip(part, answer.body()["results"], strict=True):
                results.append((yield from _result(session, call, row)))
        return results


def _result(session: Stream, call: Call, row: Json) -> Flow[Result]:
    if row["status"] == 200:
        reply = reply_of(row, is_replayed=bool(row.get("replayed")))
        session.advance(Sent(session.count, call), reply)
        return reply
    try:
        return (yield from session.stepped(call))
    except ProblemError as problem:
        return problem


def _row(session: Stream, call: Call) -> bytes:
    """A request with the name of its session, which needs no escaping."""
    return b'{"session": "%s", ' % session.name.encode() + call.content.removeprefix(b"{")


def _parts(calls: Sequence[tuple[Stream, Call]]) -> Iterator[list[tuple[Stream, Call]]]:
    part: list[tuple[Stream, Call]] = []
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
