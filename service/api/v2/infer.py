"""`POST /v2/models/{model}/infer`: a step of a sequence, or a prediction without one."""

import time
from functools import partial
from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from service.api import limits
from service.api.auth.keys import Caller
from service.api.auth.middleware import InCaller
from service.api.compression import deflate
from service.api.context import Context, InContext
from service.api.v2.body import (
    HEADER,
    InferRequest,
    read_infer,
    read_parameters,
    write_infer,
)
from service.api.v2.errors import Asked
from service.api.v2.receive import Body, expected_model, id_of, read, receive
from service.api.v2.sequences import Sequence, model_of_sequence, step_sequence
from service.api.v2.signature import Signature, observations_of, outputs_of
from service.engine.models.loaded_model import LoadedModel
from service.engine.session.requests import Observations
from service.errors import (
    CarryError,
    InvalidInputError,
    TooLargeError,
)

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
    started, asked_at = time.perf_counter_ns(), time.time()
    known, figures = Asked.of(request.scope), context.metrics.inference
    body: Body | None = None
    model: LoadedModel | None = None
    try:
        model = expected_model(context.engine.registry, name, version)
        context.engine.refuse_if_full(model)
        body = await receive(request, context.settings.max_body_bytes)
        sequence = Sequence.of(await read(context, body, read_parameters))
        if sequence is not None:
            known.sequence = sequence.described(name)
        model, asked = await _read_as_meant(context, caller, name, version, sequence, body)
        was_read = time.perf_counter_ns()
        packed, told, model = await _run(context, caller, model, version, asked, sequence, asked_at)
        was_run = time.perf_counter_ns()
        response = _respond(model, packed, told, asked, request)
    except Exception as error:
        if model is not None:
            figures.failed(model.name, model.version, time.perf_counter_ns() - started)
        known.id = await id_of(context, request, body, error)
        raise
    ended = time.perf_counter_ns()
    spent_ns = was_read - started, was_run - was_read, ended - was_run
    figures.succeeded(model.name, model.version, len(packed), *spent_ns)
    return response


async def _read_as_meant(
    context: Context,
    caller: Caller,
    name: str,
    version: str | None,
    sequence: Sequence | None,
    body: Body,
) -> tuple[LoadedModel, InferRequest]:
    """The model that a request is for, and the request as that reads it."""
    engine = context.engine
    if sequence is None or sequence.start:
        return await _read_as(engine.registry.get(name, version), context, body)
    key = sequence.key(caller.tenant, name)
    try:
        model = await model_of_sequence(engine, name, version, key, sequence)
        return await _read_as(model, context, body)
    except CarryError:
        if engine.cached_model(key) is None:
            raise
        # What is cached may be of an earlier sequence of this id.
        model = await model_of_sequence(engine, name, version, key, sequence, is_fresh=True)
        return await _read_as(model, context, body)


async def _read_as(
    model: LoadedModel, context: Context, body: Body
) -> tuple[LoadedModel, InferRequest]:
    return model, await read(context, body, partial(read_infer, Signature.of(model)))


async def _run(
    context: Context,
    caller: Caller,
    model: LoadedModel,
    version: str | None,
    asked: InferRequest,
    sequence: Sequence | None,
    asked_at: float,
) -> tuple[list[bytes], dict[str, Any], LoadedModel]:
    """Packed outputs of each row, what is told of the sequence, and the model that has answered."""
    rows = observations_of(model, asked.arrays)
    emit = _emit(model, asked.parameters)
    _bound(context, model, rows, emit)
    if sequence is None:
        return await context.engine.predict(model, rows, emit), {}, model
    if len(rows) != 1:
        raise InvalidInputError(
            f"the inputs have {len(rows)} rows: expected one, as each request of a sequence has"
        )
    [(observations, start_s)] = rows
    reply = await step_sequence(
        context.engine,
        model,
        version,
        sequence.key(caller.tenant, model.name),
        sequence,
        observations,
        start_s,
        emit,
        context.settings.default_ttl_s,
        open_session=partial(context.quotas.open, caller),
        restarts=context.settings.v2_start == "restart",
        asked_at=asked_at,
    )
    told = sequence.told(reply.step)
    return [reply.outputs], told, context.engine.registry.get_for_reply(reply.record.header)


def _emit(model: LoadedModel, parameters: dict[str, Any]) -> Literal["last", "all"]:
    """A graph of tensors answers every step, as it does elsewhere; ours the last, unless asked."""
    default = "all" if model.observations is not None else "last"
    emit = parameters.get("emit", default)
    if emit == "all" and model.codec is None:
        return "all"
    if emit not in ("last", "all"):
        raise InvalidInputError(f'emit is {str(emit)[:20]!r}: expected "last" or "all"')
    return "last"


def _bound(
    context: Context,
    model: LoadedModel,
    rows: list[tuple[Observations, int | None]],
    emit: Literal["last", "all"],
) -> None:
    num_steps = sum(each.num_observed for each, _ in rows)
    if len(rows) > limits.MAX_INSTANCES or num_steps > limits.MAX_ROWS:
        raise TooLargeError(
            f"{len(rows)} rows of {num_steps} steps in all: expected at most"
            f" {limits.MAX_INSTANCES} and {limits.MAX_ROWS}; send them in parts"
        )
    num_answers = num_steps if emit == "all" else len(rows)
    num_bytes = num_answers * model.runner.outputs.step_bytes
    if num_bytes > limits.MAX_REPLY_BYTES:
        raise TooLargeError(
            f"the answer would have {num_bytes} bytes of outputs: expected at most"
            f" {limits.MAX_REPLY_BYTES}; send fewer steps"
        )
    for each, _ in rows:
        if each.text is not None and len(each.text) > limits.MAX_TEXT_CHARS:
            raise TooLargeError(f"a text is longer than {limits.MAX_TEXT_CHARS} characters")


def _respond(
    model: LoadedModel,
    packed: list[bytes],
    told: dict[str, Any],
    asked: InferRequest,
    request: Request,
) -> Response:
    head: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    if asked.id is not None:
        head["id"] = asked.id
    if told:
        head["parameters"] = told
    arrays = outputs_of(model, packed)
    body, json_bytes = write_infer(head, Signature.of(model), arrays, asked)
    headers = {"Vary": "Accept-Encoding"}  # also where it is too short to be worth it
    if json_bytes is not None:
        headers[HEADER] = str(json_bytes)
    body, encoding = deflate(body, request.headers.get("accept-encoding", ""))
    if encoding:
        headers["Content-Encoding"] = encoding
    kind = "application/json" if json_bytes is None else "application/octet-stream"
    return Response(body, 200, headers, kind)
