"""`/v1/sessions`: open, step, preview, read, list and close sessions."""

import secrets
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Response

from service.api.auth.keys import Caller
from service.api.auth.middleware import InCaller
from service.api.big_bodies import BigBodyRoute, answers_big_bodies
from service.api.codec.decode import UnknownModel, decode_create, read_create
from service.api.codec.encode import Json, encode_session, json_response
from service.api.codec.examples import CREATE_EXAMPLES, PREVIEW_EXAMPLES, STEP_EXAMPLES
from service.api.codec.fields import SessionName
from service.api.codec.idempotency import InHeader, name_by_key
from service.api.codec.schemas import (
    PreviewBody,
    SessionAnswer,
    SessionCreate,
    SessionDetail,
    SessionPage,
    StepAnswer,
    StepBody,
)
from service.api.context import Context, InContext
from service.api.problems import error_responses
from service.api.sessions.steps import BigBody, answer_step, replay_header, step_answer
from service.engine.session.requests import CreateRequest, DeleteRequest
from service.errors import DigestMismatchError, SessionExistsError
from service.stores.record.record import Record

router = APIRouter(prefix="/v1/sessions", tags=["sessions"], route_class=BigBodyRoute)

InPath = Annotated[SessionName, Path(description="The session's name.")]


async def _read_and_create(
    context: Context, caller: Caller, parts: list[bytes], key: str | None
) -> Response:
    read = await context.reader.call(read_create, context.catalog(), parts, context.settings)
    if isinstance(read, UnknownModel):
        context.engine.registry.get(read.model, read.version)  # raises, and says what is loaded
        assert False, "the catalog holds every loaded model"  # noqa: B011, PT015 -- our own bug
    return await _create(context, caller, *read, key)


async def _read_and_preview(
    context: Context, caller: Caller, parts: list[bytes], _key: str | None, session: str
) -> Response:
    return await answer_step(context, caller, session, BigBody(PreviewBody, parts))


@router.post(
    "",
    summary="Open a session",
    status_code=201,
    response_model=SessionAnswer,
    responses=error_responses(400, 403, 404, 409, 413, 415, 422, 429, 500, 503)
    | {200: {"model": SessionAnswer, "description": "Resumed as it is"}},
)
@answers_big_bodies(_read_and_create)
async def create_session(
    body: Annotated[SessionCreate, Body(openapi_examples=CREATE_EXAMPLES)],
    context: InContext,
    caller: InCaller,
    key: InHeader = None,
) -> Response:
    """Open a session, warm it up on `history`, and answer its first prediction where there is one.

    The same request again answers the same 201 without applying history twice; without a name,
    an Idempotency-Key makes it the same session.
    """
    model = context.engine.registry.get(body.model, body.version)
    request = decode_create(context.view_of(model).reads, body, context.settings)
    return await _create(context, caller, body.session, request, key)


@router.post(
    "/{session}/steps",
    summary="Step a session",
    response_model=StepAnswer,
    responses=error_responses(400, 404, 409, 413, 415, 422, 429, 500, 503),
)
async def step_session(
    session: InPath,
    body: Annotated[StepBody, Body(openapi_examples=STEP_EXAMPLES)],
    context: InContext,
    caller: InCaller,
    key: InHeader = None,
) -> Response:
    """Feed the next observations and get the prediction after them, once it is committed.

    A retry of the last request is answered again, with `Idempotent-Replayed: true`, if it names its
    `step` or, without one, an Idempotency-Key. With neither it is applied again.
    """
    return await answer_step(context, caller, session, body, key)


@router.post(
    "/{session}/preview",
    summary="Try a step without committing it",
    response_model=StepAnswer,
    responses=error_responses(400, 404, 409, 413, 415, 422, 429, 500, 503),
)
@answers_big_bodies(_read_and_preview)
async def preview_session(
    session: InPath,
    body: Annotated[PreviewBody, Body(openapi_examples=PREVIEW_EXAMPLES)],
    context: InContext,
    caller: InCaller,
) -> Response:
    """What the answer would be. The session stays as it is."""
    return await answer_step(context, caller, session, body)


@router.get(
    "/{session}",
    summary="Read a session",
    response_model=SessionDetail,
    responses=error_responses(404, 409, 422, 503),
)
async def get_session(session: InPath, context: InContext, caller: InCaller) -> Response:
    """Where the session stands in the store now."""
    record = await context.engine.read(context.key(caller, session))
    return json_response(_detail(context, record, await context.engine.store.now()))


@router.delete(
    "/{session}",
    summary="Close a session",
    status_code=204,
    responses=error_responses(404, 422, 503),
)
async def delete_session(session: InPath, context: InContext, caller: InCaller) -> Response:
    """Drop its state. Its last reply is kept for ten minutes, for retries."""
    await context.engine.submit(context.key(caller, session), DeleteRequest())
    return Response(status_code=204)


@router.get(
    "",
    summary="List the open sessions",
    response_model=SessionPage,
    responses=error_responses(422, 503),
)
async def list_sessions(
    context: InContext,
    caller: InCaller,
    model: Annotated[str | None, Query(description="Only those of this model.")] = None,
    cursor: Annotated[str, Query(description="`next_cursor` of the page before.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """By name, page after page."""
    # One more than asked for tells whether there is another page.
    records = await context.engine.store.list_live(caller.tenant, model, cursor, limit + 1)
    now = await context.engine.store.now()
    page = {
        "sessions": [_detail(context, record, now) for record in records[:limit]],
        "next_cursor": records[limit - 1].header.name if len(records) > limit else None,
    }
    return json_response(page)


async def _create(
    context: Context,
    caller: Caller,
    session: str | None,
    request: CreateRequest,
    key: str | None,
) -> Response:
    name = session or name_by_key(key) or secrets.token_urlsafe(16)
    try:
        reply = await context.quotas.open(caller, context.key(caller, name), request)
    except SessionExistsError as error:
        if session is not None or key is None:
            raise
        raise DigestMismatchError(
            f"another request with this Idempotency-Key opened session {name!r}: repeat"
            " it as it was, or take a new key"
        ) from error
    opening = reply.record.header
    named = {"session": name, "model": opening.model, "version": opening.version}
    answer = named | step_answer(context, reply, "last")
    headers = {"Location": f"/v1/sessions/{name}"} | replay_header(reply)
    return json_response(answer, 201 if reply.is_new else 200, headers)


def _detail(context: Context, record: Record, now: float) -> Json:
    opening = record.header
    loaded = context.engine.registry.find_for_session(opening)
    norms = loaded.layout.norms(record.state) if loaded else {}
    return encode_session(record, norms, now)
