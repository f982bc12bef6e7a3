"""`POST /v2/models/{model}/infer`: a step of a sequence, or a prediction without one."""

from typing import Any

from fastapi import APIRouter, Request, Response

from service.api.auth.keys import Caller
from service.api.auth.middleware import InCaller
from service.api.context import Context, InContext
from service.api.v2.errors import Asked
from service.api.v2.infer_call import InferCall
from service.api.v2.receive import Body, id_of, receive

router = APIRouter(prefix="/v2/models/{model}", tags=["open inference"])

_DOCUMENTED: dict[str, Any] = {
    "responses": {
        200: {"description": "JSON, with binary tensors behind it where those were asked for"},
        400: {"description": 'A body that does not fit the model: `{"error": "…"}`'},
        404: {"description": "No such model"},
    },
}


@router.post("/infer", summary="Infer with the default version", **_DOCUMENTED)
async def infer(model: str, request: Request, context: InContext, caller: InCaller) -> Response:
    """Tensors by name in, tensors by name out; JSON or binary, either way.

    With the parameter `sequence_id` the request is a step of that sequence, which is a session:
    durable, and with `sequence_step` exactly once. `emit` (`last` or `all`) says whether the
    answers after each step are wanted.
    """
    return await _infer(context, caller, model, None, request)


@router.post("/versions/{version}/infer", summary="Infer with one version", **_DOCUMENTED)
async def infer_with_version(
    model: str, version: str, request: Request, context: InContext, caller: InCaller
) -> Response:
    """As `POST /v2/models/{model}/infer`, for a version of your choice.

    A sequence stays with the version that it was started with.
    """
    return await _infer(context, caller, model, version, request)


async def _infer(
    context: Context, caller: Caller, name: str, version: str | None, request: Request
) -> Response:
    accepted = request.headers.get("accept-encoding", "")
    call = InferCall(context, caller, name, version, accepted, Asked.of(request.scope))
    body: Body | None = None
    try:
        call.require_room()
        body = call.body = await receive(request, context.settings.max_body_bytes)
        return await call.run()
    except Exception as error:
        call.count_failure()
        call.asked.id = await id_of(context, request, body, error)
        raise
