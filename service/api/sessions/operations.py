"""`/v1/sessions/{session}/…`: what can be done with a session beside stepping it."""

import secrets
from typing import Annotated

from fastapi import APIRouter, Body, Response

from service.api.auth.middleware import InCaller
from service.api.codec.encode import Json, encode_reply, json_response, rfc3339
from service.api.codec.examples import FORK_EXAMPLES, REWIND_EXAMPLES, UPGRADE_EXAMPLES
from service.api.codec.idempotency import InHeader, name_by_key
from service.api.codec.schemas import (
    ForkBody,
    RewindBody,
    SessionAnswer,
    UpgradeAnswer,
    UpgradeBody,
)
from service.api.context import Context, InContext
from service.api.problems import error_responses
from service.api.sessions.routes import InPath
from service.api.sessions.steps import replay_header
from service.engine.session.divergence import divergence, last_prediction
from service.engine.session.requests import ForkRequest, RewindRequest, UpgradeRequest
from service.engine.session.rules import Reply
from service.errors import InvalidInputError

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])


@router.post(
    "/{session}/fork",
    summary="Fork a session",
    status_code=201,
    response_model=SessionAnswer,
    responses=error_responses(400, 403, 404, 409, 413, 415, 422, 503),
)
async def fork_session(
    session: InPath,
    body: Annotated[ForkBody, Body(openapi_examples=FORK_EXAMPLES)],
    context: InContext,
    caller: InCaller,
    key: InHeader = None,
) -> Response:
    """Open another session that goes on from where this one stands; both then go their own way.

    The same request again answers the same 201; without a name, an Idempotency-Key makes it the
    same session. Checkpoints and kept observations go along, replies do not.
    """
    _require_allowed_ttl(context, body.ttl_s)
    name = body.session or name_by_key(key) or secrets.token_urlsafe(16)
    request = ForkRequest(context.key(caller, session), body.ttl_s, body.metadata)
    reply = await context.quotas.open(caller, context.key(caller, name), request)
    return opened_response(reply)


@router.post(
    "/{session}/rewind",
    summary="Rewind a session",
    response_model=SessionAnswer,
    responses=error_responses(400, 404, 409, 413, 415, 422, 503),
)
async def rewind_session(
    session: InPath,
    body: Annotated[RewindBody, Body(openapi_examples=REWIND_EXAMPLES)],
    context: InContext,
    caller: InCaller,
) -> Response:
    """Go back to a checkpoint, as if the later steps had not been made.

    A session keeps as many as `checkpoints` said when it was opened; `GET` lists their steps.
    """
    reply = await context.engine.submit(context.key(caller, session), RewindRequest(body.step))
    return json_response(_described(reply))


@router.post(
    "/{session}/upgrade",
    summary="Go on with another version of the model",
    response_model=UpgradeAnswer,
    responses=error_responses(400, 404, 409, 413, 415, 422, 429, 500, 503),
)
async def upgrade_session(
    session: InPath,
    body: Annotated[UpgradeBody, Body(openapi_examples=UPGRADE_EXAMPLES)],
    context: InContext,
    caller: InCaller,
) -> Response:
    """Hand the session to another version; without this it stays with its graph.

    `carry` needs the same weights, a manifest that says that states mean the same
    (`compatible_states`), or `force`; and the same `state_schema` in any case. `replay` runs the
    new version over the observations that were kept (`keep_observations`) and answers its
    prediction. To the version that it has already: nothing happens.
    """
    request = UpgradeRequest(body.version, body.policy, body.force)
    reply = await context.engine.submit(context.key(caller, session), request)
    return json_response(_described(reply) | _upgrade_of(context, reply, body.policy))


def _upgrade_of(context: Context, reply: Reply, policy: str) -> Json:
    """What an upgrade did, with the prediction of a replay."""
    registry, before = context.engine.registry, reply.before or reply.record
    told: Json = {
        "from_version": before.header.version,
        "policy": policy,
        "replayed": len(reply.record.history.observations) if reply.outputs else 0,
        "divergence": None,
    }
    if not reply.outputs:
        return told
    after = registry.get_for_reply(reply.record.header)
    old = registry.find_for_session(before.header)
    told["divergence"] = divergence(old, last_prediction(before), after, reply.outputs)
    return told | encode_reply(after, reply, "last", context.view_of(after).whole_forecast)


def opened_response(reply: Reply) -> Response:
    """201 for a session that is new under its name, 200 for one that took another's place."""
    location = {"Location": f"/v1/sessions/{reply.record.header.name}"}
    status = 201 if reply.is_new else 200
    return json_response(_described(reply), status, location | replay_header(reply))


def _described(reply: Reply) -> Json:
    opening = reply.record.header
    return {
        "session": opening.name,
        "model": opening.model,
        "version": opening.version,
        "step": reply.step,
        "expires_at": rfc3339(reply.record.expires_at),
    }


def _require_allowed_ttl(context: Context, ttl_s: float | None) -> None:
    most = context.settings.max_ttl_s
    if ttl_s is not None and ttl_s > most:
        raise InvalidInputError(f"ttl_s is {ttl_s:.15g}: expected at most {most:.15g}")
