"""`/v2/repository`: which bundles there are, and loading and unloading them while serving.

For admins. A model is read from the folder of models alone; a request only names it.
"""

from typing import Any, TypeVar

import structlog
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.api.auth.middleware import InAdmin
from service.api.body_reader.reader import BIG_BODY_BYTES
from service.api.codec.encode import json_response
from service.api.codec.validation import parse_body
from service.api.context import InContext
from service.errors import InvalidInputError, TooLargeError

log = structlog.get_logger()

router = APIRouter(prefix="/v2/repository", tags=["open inference"])


_Body = TypeVar("_Body", bound=BaseModel)


class _IndexBody(BaseModel):
    ready: bool = Field(default=False, strict=True)


class _ChangeBody(BaseModel):
    parameters: dict[str, Any] = Field(default_factory=dict)


def _may_read(body: type[BaseModel], **examples: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI says of a body that may be left out."""
    shown = {name: {"value": value} for name, value in examples.items()}
    content = {"schema": body.model_json_schema(), "examples": shown}
    return {"requestBody": {"required": False, "content": {"application/json": content}}}


_OF_ONE_MODEL: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        400: {"description": 'A bundle was refused, or is asked for oddly: `{"error": "…"}`'},
        403: {"description": "For admins"},
        404: {"description": "No such bundle"},
    },
    "openapi_extra": _may_read(
        _ChangeBody, all_versions={}, one_version={"parameters": {"version": "2"}}
    ),
}


@router.post(
    "/index",
    summary="Every bundle and its state",
    openapi_extra=_may_read(_IndexBody, all={}, those_served={"ready": True}),
)
async def repository_index(request: Request, context: InContext) -> Response:
    """READY, LOADING, UNLOADING or UNAVAILABLE, with the reason; with `ready`, those alone."""
    body = await _read(_IndexBody, request)
    shown = context.repository.index()
    return json_response(
        [each._asdict() for each in shown if each.state == "READY" or not body.ready]
    )


@router.post("/models/{model}/load", summary="Load a model", **_OF_ONE_MODEL)
async def load(model: str, request: Request, context: InContext, admin: InAdmin) -> Response:
    """Serve what lies in the folder under this name: all versions, or `parameters.version`.

    Answered when this process serves it; others follow within CARRY_MODELS_POLL_S.
    """
    version = await _version_of(request)
    await context.repository.load(model, version)
    log.info("load was asked for", model=model, version=version, key=admin.key_id)
    return Response()


@router.post("/models/{model}/unload", summary="Unload a model", **_OF_ONE_MODEL)
async def unload(model: str, request: Request, context: InContext, admin: InAdmin) -> Response:
    """Begin nothing with it any more: all versions, or `parameters.version`.

    Its sessions may be stepped for CARRY_UNLOAD_GRACE_S, and stay stored.
    """
    version = await _version_of(request)
    await context.repository.unload(model, version)
    log.info("unload was asked for", model=model, version=version, key=admin.key_id)
    return Response()


async def _read(schema: type[_Body], request: Request) -> _Body:
    """A body, which may be left out; one is short, so it is parsed on the event loop.

    Raises:
        CarryError: it is too long, or does not fit.
    """
    data = await request.body()
    if len(data) > BIG_BODY_BYTES:
        raise TooLargeError(
            f"the body has {len(data)} bytes: expected at most {BIG_BODY_BYTES}; bundles are read"
            " from the folder of models and cannot be sent"
        )
    return parse_body(schema, data or b"{}")


async def _version_of(request: Request) -> str | None:
    """Which version is meant, None: all.

    Raises:
        InvalidInputError: it asks for what Triton can and this server cannot.
    """
    parameters = (await _read(_ChangeBody, request)).parameters
    strange = sorted(set(parameters) - {"version", "unload_dependents"})
    if strange:
        raise InvalidInputError(
            f"parameters {strange} are not known: expected version alone; bundles and their"
            " configuration are read from the folder of models"
        )
    version = parameters.get("version")
    if version is not None and not isinstance(version, str):
        raise InvalidInputError('parameters.version: expected a string such as "2"')
    return version
