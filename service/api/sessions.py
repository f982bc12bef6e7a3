"""`/v1/sessions`: open, step, preview, read, list and close sessions."""

import asyncio
import secrets
from typing import Annotated, Literal, NamedTuple

from fastapi import APIRouter, Body, Path, Query, Response

from service.api.auth import InCaller
from service.api.big_bodies import BigBodyRoute, answers_big_bodies
from service.api.body_reader import BIG_BODY_BYTES
from service.api.context import Context, InContext
from service.api.decode import NoSuchReads, decode_create, decode_step, read_create, read_step
from service.api.examples import CREATE_EXAMPLES, PREVIEW_EXAMPLES, STEP_EXAMPLES
from service.api.fields import SessionName
from service.api.idempotency import InHeader, digest_of_key, name_by_key
from service.api.keys import Caller
from service.api.parse import parse_body
from service.api.present import Json, json_response, present_reply, present_session, rfc3339
from service.api.problems import error_responses
from service.api.schemas import (
    Observed,
    PreviewBody,
    SessionAnswer,
    SessionCreate,
    SessionDetail,
    SessionPage,
    StepAnswer,
    StepBody,
)
from service.engine.registry import LoadedModel
from service.engine.requests import CreateRequest, DeleteRequest, StepRequest
from service.engine.session import Reply
from service.errors import CarryError, DigestMismatchError, SessionExistsError
from service.stores.record import Record

router = APIRouter(prefix="/v1/sessions", tags=["sessions"], route_class=BigBodyRoute)

STEPS_PATH = "/v1/sessions/{session}/steps"
"""Answered by `hot_path.py`, which calls `answer_step`."""

InPath = Annotated[SessionName, Path(description="The session's name.")]


async def _read_and_create(
    context: Context, caller: Caller, parts: list[bytes], key: str | None
) -> Response:
    read = await context.reader.call(read_create, context.catalog(), parts, context.settings)
    if isinstance(read, NoSuchReads):
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
    responses=error_responses(400, 404, 409, 413, 415, 422, 429, 500, 503)
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
    request = decode_create(context.face(model).reads, body, context.settings)
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
    records = await context.engine.list_live(caller.tenant, model, cursor, limit + 1)
    now = await context.engine.store.now()
    page = {
        "sessions": [_detail(context, record, now) for record in records[:limit]],
        "next_cursor": records[limit - 1].opening.name if len(records) > limit else None,
    }
    return json_response(page)


class BigBody(NamedTuple):
    """A body that is not parsed yet, in parts."""

    schema: type[Observed]
    parts: list[bytes]


async def answer_step(
    context: Context,
    caller: Caller,
    session: str,
    body: Observed | BigBody,
    idempotency_key: str | None = None,
) -> Response:
    """A step or a preview, from the body to the answer."""
    key_digest = digest_of_key(idempotency_key)
    key = context.key(caller, session)
    model = await context.engine.model_of(key)
    try:
        request = await _request_of(context, model, body)
    except CarryError:  # the cached model may be that of an earlier session of this name
        fresh = await context.engine.model_of(key, is_fresh=True)
        if fresh is model:
            raise
        request = await _request_of(context, fresh, body)
    if request.step is None and not request.is_preview:
        request = request._replace(key=key_digest)
    reply = await context.engine.submit(key, request)
    return step_response(context, reply, request.emit)


def submit_cached(
    context: Context, caller: Caller, session: str, data: bytes
) -> "tuple[Literal['last', 'all'], asyncio.Future[Reply]] | None":
    """Submit a step of a session whose model is known here, from a body that is as it should be.

    The same as `answer_step` without asking anybody; None, with nothing done, where that is needed.

    Raises:
        QueueFullError: the model has more work than it should; the body was not even read.
    """
    key = context.key(caller, session)
    model = context.engine.cached_model(key)
    if model is None or len(data) > BIG_BODY_BYTES:
        return None
    context.engine.refuse_if_full(model)
    try:
        body = parse_body(StepBody, data)
        request = decode_step(context.face(model).reads, body, context.settings)
    except CarryError:  # said again, better, on the whole way
        return None
    return request.emit, context.engine.submit(key, request)


def step_response(context: Context, reply: Reply, emit: Literal["last", "all"]) -> Response:
    """What a step or a preview came to."""
    return json_response(_answer(context, reply, emit), headers=replay_header(reply))


async def _request_of(
    context: Context, model: LoadedModel, body: Observed | BigBody
) -> StepRequest:
    reads, limits = context.face(model).reads, context.settings
    if isinstance(body, BigBody):
        return await context.reader.call(read_step, reads, body.schema, body.parts, limits)
    return decode_step(reads, body, limits)


async def _create(
    context: Context,
    caller: Caller,
    session: str | None,
    request: CreateRequest,
    key: str | None,
) -> Response:
    name = session or name_by_key(key) or secrets.token_urlsafe(16)
    try:
        reply = await context.engine.submit(context.key(caller, name), request)
    except SessionExistsError as error:
        if session is not None or key is None:
            raise
        raise DigestMismatchError(
            f"another request came under this Idempotency-Key and opened session {name!r}: repeat"
            " it as it was, or take a new key"
        ) from error
    opening = reply.record.opening
    named = {"session": name, "model": opening.model, "version": opening.version}
    answer = named | _answer(context, reply, "last")
    headers = {"Location": f"/v1/sessions/{name}"} | replay_header(reply)
    return json_response(answer, 201 if reply.is_new else 200, headers)


def _answer(context: Context, reply: Reply, emit: Literal["last", "all"]) -> Json:
    record = reply.record
    model = context.engine.registry.get_for_session(record.opening)
    return {
        "session": record.opening.name,
        "step": reply.step,
        "expires_at": rfc3339(record.expires_at),
    } | present_reply(model, reply, emit, context.face(model).whole_forecast)


def _detail(context: Context, record: Record, now: float) -> Json:
    opening = record.opening
    loaded = context.engine.registry.find(opening.model, opening.version)
    is_ours = loaded is not None and loaded.origin.graph_sha256 == opening.origin.graph_sha256
    norms = loaded.layout.norms(record.state) if loaded and is_ours else {}
    return present_session(record, norms, now)


def replay_header(reply: Reply) -> dict[str, str]:
    return {"Idempotent-Replayed": "true"} if reply.is_replay else {}
