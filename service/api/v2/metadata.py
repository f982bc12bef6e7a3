"""`/v2`: the Open Inference Protocol as its clients use it: health, what is served, how it does.

Inference is in `infer.py`, loading in `repository.py`; what OpenAPI
says of them all is in `schemas.py`. Tracing, logging and shared memory are answered
501.
"""

from typing import Any

from fastapi import APIRouter, Request, Response

from service.api.codec.encode import json_response
from service.api.context import Context, InContext
from service.api.inference_statistics import statistics_of
from service.api.routes.health import why_not_ready
from service.api.v2.signature import config_of, metadata_of
from service.engine.models.loaded_model import LoadedModel
from service.errors import NotReadyError, UnsupportedError

router = APIRouter(prefix="/v2", tags=["open inference"])

_EXTENSIONS = (
    "sequence", "model_configuration", "binary_tensor_data", "parameters", "statistics",
    "model_repository", "generate",
)  # fmt: skip
_DOCUMENTED: dict[str, Any] = {
    "responses": {404: {"description": 'No such model: `{"error": "…"}`'}},
}
_EMPTY: dict[str, Any] = _DOCUMENTED | {"response_class": Response}


@router.get("/health/live", summary="Alive?", response_class=Response)
async def live() -> Response:
    """The process answers; it says nothing about models or the store."""
    return Response()


@router.get("/health/ready", summary="Ready?", response_class=Response)
async def ready(context: InContext) -> Response:
    """Models are loaded and the store can be reached; else 503 and why."""
    problems = await why_not_ready(context)
    if problems:
        raise NotReadyError("; ".join(problems), retry_after_s=1)
    return Response()


@router.get("", summary="The server and its extensions")
async def server_metadata(request: Request) -> Response:
    """Name, version and the extensions of the protocol that are spoken."""
    return json_response(
        {"name": "carry", "version": request.app.version, "extensions": list(_EXTENSIONS)}
    )


@router.get("/models/stats", summary="Statistics of all models")
async def all_statistics(context: InContext) -> Response:
    """Of every model, what `/v2` asked of it since the service began, and how its batches went."""
    return _statistics(context, context.engine.registry.all())


@router.get("/models/{model}", summary="What a model reads and answers", **_DOCUMENTED)
@router.get("/models/{model}/versions/{version}", summary="As above, of one version", **_DOCUMENTED)
async def model_metadata(model: str, context: InContext, version: str | None = None) -> Response:
    """Its tensors with names, types and shapes; the default version where none is named."""
    registry = context.engine.registry
    found = registry.get(model, version)
    return json_response(metadata_of(found, [each.version for each in registry.versions(model)]))


@router.get("/models/{model}/ready", summary="Is a model ready?", **_EMPTY)
@router.get("/models/{model}/versions/{version}/ready", summary="Is it ready?", **_EMPTY)
async def model_ready(model: str, context: InContext, version: str | None = None) -> Response:
    """200 while it is served, else 404."""
    context.engine.registry.get(model, version)
    return Response()


@router.get("/models/{model}/config", summary="A model's configuration", **_DOCUMENTED)
@router.get("/models/{model}/versions/{version}/config", summary="Its configuration", **_DOCUMENTED)
async def model_config(model: str, context: InContext, version: str | None = None) -> Response:
    """As Triton describes models: tensors, the largest batch, sequence batching."""
    found = context.engine.registry.get(model, version)
    return json_response(config_of(found, context.settings.max_batch_rows))


@router.get("/models/{model}/stats", summary="A model's statistics", **_DOCUMENTED)
@router.get("/models/{model}/versions/{version}/stats", summary="Its statistics", **_DOCUMENTED)
async def model_statistics(model: str, context: InContext, version: str | None = None) -> Response:
    """What `/v2` asked of it since the service began, and how its batches went."""
    registry = context.engine.registry
    found = registry.versions(model) if version is None else [registry.get(model, version)]
    return _statistics(context, found)


@router.api_route("/trace/{path:path}", methods=["GET", "POST"], include_in_schema=False)
@router.api_route("/logging", methods=["GET", "POST"], include_in_schema=False)
@router.api_route(
    "/systemsharedmemory/{path:path}", methods=["GET", "POST"], include_in_schema=False
)
@router.api_route("/cudasharedmemory/{path:path}", methods=["GET", "POST"], include_in_schema=False)
async def unsupported() -> Response:
    raise UnsupportedError("this server has no tracing, logging or shared memory of the protocol")


@router.api_route("/models/{model}/trace/setting", methods=["GET", "POST"], include_in_schema=False)
async def unsupported_of_model(model: str) -> Response:
    raise UnsupportedError(f"this server has no trace settings of '{model}'")


def _statistics(context: Context, models: list[LoadedModel]) -> Response:
    totals = context.metrics.totals()
    stats = [statistics_of(totals, model.name, model.version) for model in models]
    return json_response({"model_stats": stats})
