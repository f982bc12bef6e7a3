"""`/v1/sessions/{session}/snapshot`: a session as signed bytes, and back."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response

from service.api import limits
from service.api.auth.middleware import InCaller
from service.api.codec.decode import NANOSECOND_RANGE_S
from service.api.codec.fields import MAX_METADATA_BYTES
from service.api.codec.schemas import SessionAnswer
from service.api.context import InContext
from service.api.problems import error_responses
from service.api.sessions.operations import opened_response
from service.api.sessions.routes import InPath
from service.engine.session.requests import RestoreRequest
from service.errors import SnapshotRefusedError, TooLargeError, UnsupportedMediaTypeError
from service.settings import Settings
from service.stores.record.history import HistoryPolicy
from service.stores.record.record import Record

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

MEDIA_TYPE = "application/vnd.carry.snapshot"
_ACCEPTED = (MEDIA_TYPE, "application/octet-stream")
_CONTENT = {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}


@router.get(
    "/{session}/snapshot",
    summary="Take a snapshot of a session",
    response_class=Response,
    responses=error_responses(404, 409, 413, 422, 501, 503)
    | {200: {"description": "Signed bytes, for `PUT`", "content": _CONTENT}},
)
async def take_snapshot(session: InPath, context: InContext, caller: InCaller) -> Response:
    """The session as the store holds it now, signed, for any server with the same key and model.

    Checkpoints and kept observations go along, replies do not.
    """
    context.snapshot_keys.require_any()
    snapshot = context.snapshot_keys.seal(await context.engine.read(context.key(caller, session)))
    most = context.settings.max_body_bytes
    if len(snapshot) > most:
        raise TooLargeError(
            f"the snapshot has {len(snapshot)} bytes: expected at most {most}, so that it can be"
            " restored; raise CARRY_MAX_BODY_BYTES here and where it goes"
        )
    return Response(snapshot, media_type=MEDIA_TYPE)


@router.put(
    "/{session}/snapshot",
    summary="Restore a session from a snapshot",
    status_code=201,
    response_model=SessionAnswer,
    responses=error_responses(403, 409, 413, 415, 422, 501, 503)
    | {200: {"model": SessionAnswer, "description": "Replaced what was there"}},
    openapi_extra={"requestBody": {"required": True, "content": _CONTENT}},
)
async def restore_snapshot(
    session: InPath,
    request: Request,
    context: InContext,
    caller: InCaller,
    replace: Annotated[
        bool, Query(description="Also onto an open session, whose state is then lost.")
    ] = False,
) -> Response:
    """Go on with a session where its snapshot was taken, here or on another cluster with the key.

    A snapshot that was altered in any byte, of another tenant, or of another graph than is loaded
    is refused. The same again answers the same 201.
    """
    context.snapshot_keys.require_any()
    said = request.headers.get("content-type", "none")
    if said.partition(";")[0].strip().lower() not in _ACCEPTED:
        raise UnsupportedMediaTypeError(
            f"the body's Content-Type is {said}: expected Content-Type: {MEDIA_TYPE}"
        )
    snapshot = await request.body()
    sealed = context.snapshot_keys.open(snapshot)
    _require_allowed(sealed, context.settings)
    asked = RestoreRequest.of(snapshot, sealed, replaces=replace)
    key = context.key(caller, session)
    return opened_response(await context.quotas.open(caller, key, asked))


def _require_allowed(sealed: Record, settings: Settings) -> None:
    """Hold a session that was opened elsewhere to what may be opened here."""
    keeps = sealed.header.keeps or HistoryPolicy()
    for name, value, most in (
        ("ttl_s", sealed.ttl_s, settings.max_ttl_s),
        ("replay", sealed.header.ring_size, limits.MAX_REPLAY),
        ("checkpoints", keeps.checkpoints, limits.MAX_CHECKPOINTS),
        ("keep_observations", keeps.observations, limits.MAX_KEEP_OBSERVATIONS),
    ):
        if value > most:
            fix = "raise CARRY_MAX_TTL_S, or restore it" if name == "ttl_s" else "restore it"
            raise SnapshotRefusedError(
                f"{name} of the snapshot: expected at most {most:.15g}, found {value:.15g};"
                f" {fix} where it was taken"
            )
    if sealed.header.start_s is not None and abs(sealed.header.start_s) > NANOSECOND_RANGE_S:
        raise SnapshotRefusedError(
            f"start of the snapshot: expected a time from 1824 to 2116, found"
            f" {sealed.header.start_s} s; take another one"
        )
    if len(orjson.dumps(sealed.header.metadata)) > MAX_METADATA_BYTES:
        raise SnapshotRefusedError(
            f"metadata of the snapshot: expected at most {MAX_METADATA_BYTES} bytes; take another"
        )
