"""`GET /v1/sessions/{session}/events`: what is committed to a session, as it happens."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Response

from service.api.auth.middleware import InCaller
from service.api.codec.fields import MAX_WHOLE
from service.api.context import Context, InContext
from service.api.events.sse import EventStream, event
from service.api.problems import error_responses
from service.api.sessions.routes import InPath
from service.api.sessions.steps import step_answer
from service.engine.dispatch.watch import Gap, Watch
from service.engine.session.rules import Reply
from service.errors import VersionGoneError

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

POLL_S = 0.5
"""How often steps of other replicas are read from the store."""

_MAX_DIGITS = len(str(MAX_WHOLE))
_EXAMPLE = (
    'event: open\ndata: {"session":"my-station","step":2,"replay":1}\nid: 2\n\n'
    'event: step\ndata: {"session":"my-station","step":3,"prediction":{…}}\nid: 3\n\n'
    'event: end\ndata: {"reason":"deleted"}\n\n'
)


@router.get(
    "/{session}/events",
    summary="Listen to a session",
    response_class=Response,
    responses=error_responses(401, 404, 409, 422, 429, 503)
    | {
        200: {
            "description": "Server-Sent Events",
            "content": {"text/event-stream": {"example": _EXAMPLE}},
        }
    },
)
async def listen(
    session: InPath,
    context: InContext,
    caller: InCaller,
    last_event_id: Annotated[
        str | None, Header(description="The `id` of the last event that the client has.")
    ] = None,
) -> Response:
    """Every committed step, whichever replica commits it, with the step as the event's id.

    `open` says where the session stands, `step` is the answer of a step, `gap` tells of steps whose
    replies are not kept any more (or, with `to_step` below `from_step`, that the session went
    back), and `end` that the session is closed or expired, or its model unloaded here. A server
    that shuts down ends the stream without `end`: connect again. With `Last-Event-ID` it goes on
    from the replies that the session keeps (`replay`); with one that is not a step, it begins as
    without, behind a `gap` from step 0. Steps that other replicas commit show within half
    a second; more of them in that time than the session keeps leave a gap.
    """
    key = context.key(caller, session)
    record = await context.engine.read(key)
    last = None if last_event_id is None else _step_of(last_event_id)
    after = record.step if last is None else last
    watch = context.engine.watch(key, record, after, POLL_S)
    opening = {"session": session, "step": record.step, "replay": record.header.ring_size}
    first = [event(opening, "open", after)]
    if last_event_id is not None and last is None:  # what the client has is not known
        first.append(_gap(Gap(0, after)))
    response = EventStream(context, _events(context, watch, first), is_endless=True)
    if last is not None:
        context.metrics.stream_resumed("events")
    return response


def _step_of(event_id: str) -> int | None:
    """The step that an event's id names; None where it names none.

    A browser sends whatever id it has, and gives its stream up for good when that is refused.
    """
    if not (event_id.isascii() and event_id.isdigit() and len(event_id) <= _MAX_DIGITS):
        return None
    step = int(event_id)
    return step if step <= MAX_WHOLE else None


def _gap(gap: Gap) -> bytes:
    return event(gap._asdict(), "gap", gap.to_step)


async def _events(context: Context, watch: Watch, first: list[bytes]) -> AsyncIterator[bytes]:
    for told in first:
        yield told
    with watch:
        async for each in watch:
            if isinstance(each, Reply):
                try:
                    answer = step_answer(context, each, "last")
                except VersionGoneError as error:  # it was unloaded here, and stepped elsewhere
                    yield event({"reason": error.code}, "end")
                    return
                yield event(answer, "step", each.step)
            elif isinstance(each, Gap):
                yield _gap(each)
            else:
                yield event(each._asdict(), "end")
