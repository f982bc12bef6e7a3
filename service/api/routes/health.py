"""Whether the process lives, whether it can serve, and what it measures."""

from fastapi import APIRouter, Request, Response

from service.api.auth.middleware import get_admin
from service.api.codec.encode import json_response
from service.api.context import Context, InContext
from service.api.problems import error_responses, problem_response
from service.errors import CarryError

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Alive?", responses=error_responses(500))
async def healthz(context: InContext) -> Response:
    """200 as long as the event loop turns and the engine's tasks live; restart it otherwise."""
    if context.engine.failure is not None:
        return problem_response(
            "internal", "Engine stopped", 500, "a task of the engine ended: restart the server"
        )
    return json_response({"status": "alive"})


@router.get("/readyz", summary="Ready?", responses=error_responses(503))
async def readyz(context: InContext) -> Response:
    """200 if the store can be written, a model is loaded, the file of API keys can be read, and the
    server is not shutting down.
    """
    engine = context.engine
    problems = await why_not_ready(context)
    if problems:
        return problem_response(
            "not-ready", "Not ready", 503, "; ".join(problems), headers={"Retry-After": "1"}
        )
    return json_response(
        {
            "status": "ready",
            "models": len(engine.registry.all()),
            "provider": engine.registry.provider,
            "durability": engine.store.durability,
        }
    )


async def why_not_ready(context: Context) -> list[str]:
    """What keeps the server from serving; empty when it can."""
    engine = context.engine
    problems = []
    if engine.is_draining:
        problems.append("shutting down")
    if not engine.registry.all() and not engine.registry.retiring:
        problems.append("no model is loaded (GET /v1/models says which bundles were refused)")
    if fault := context.key_watch.fault:
        problems.append(
            f"the file of API keys {fault}; the keys stay as they were (the log says more)"
        )
    try:
        await engine.store.check()
    except CarryError as error:
        problems.append(error.detail)
    return problems


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request, context: InContext) -> Response:
    """The text format of Prometheus, or OpenMetrics with exemplars for who accepts it.

    With CARRY_METRICS_NEED_KEY it is for admins.
    """
    if context.settings.metrics_need_key:
        get_admin(request)
    body, media_type = context.metrics.render(request.headers.get("accept", ""))
    return Response(body, media_type=media_type)
