"""`POST /v2/models/{model}/generate` and `generate_stream`: Triton's extension, to write on.

`text_input` is written on and comes back as `text_output`: at once, or as events, a character each.
Parameters may stand in `parameters` or beside them, as Triton's backends take them. With
`sequence_id` a request is a step of that sequence, as `infer` has it.

Rule 1: an error before the first character is an ordinary answer with its status, a later one the
        last event. Nothing is applied then, unless it says otherwise.
Rule 2: the protocol has no event by which characters are taken back. So where another request of
        its sequence was first, a stream ends with an error, and nothing of it is applied.
"""

import asyncio
import time
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from service.api.auth.keys import Caller
from service.api.auth.middleware import InCaller
from service.api.codec.encode import json_response
from service.api.codec.generation import split_written
from service.api.context import Context, InContext
from service.api.events.generation import Answer, TokenStream, stream
from service.api.events.sse import event
from service.api.v2.errors import Asked, error_json
from service.api.v2.generate_body import GenerateRequest, read_generate
from service.api.v2.receive import Body, expected_model, id_of, read, receive
from service.api.v2.sequences import Sequence, model_of_sequence, request_of_sequence, run_sequence
from service.engine.models.loaded_model import LoadedModel
from service.errors import CarryError, ContentionError
from service.wordings import case

router = APIRouter(prefix="/v2/models/{model}", tags=["open inference"])

_DOCUMENTED: dict[str, Any] = {
    "responses": {
        400: {"description": 'It does not write, or the body does not fit it: `{"error": "…"}`'},
        404: {"description": "No such model"},
    },
}  # fmt: skip


@router.post("/generate", summary="Write on with the default version", **_DOCUMENTED)
async def generate(model: str, request: Request, context: InContext, caller: InCaller) -> Response:
    """A text in, what follows it out; `max_tokens`, `temperature` and `seed` say how."""
    return (await _generate(context, caller, model, None, request, None)).response


@router.post("/versions/{version}/generate", summary="Write on with one version", **_DOCUMENTED)
async def generate_with_version(
    model: str, version: str, request: Request, context: InContext, caller: InCaller
) -> Response:
    """As `POST /v2/models/{model}/generate`, for a version of your choice."""
    return (await _generate(context, caller, model, version, request, None)).response


@router.post("/generate_stream", summary="Write on, as events", **_DOCUMENTED)
async def generate_stream(
    model: str, request: Request, context: InContext, caller: InCaller
) -> Response:
    """As `POST /v2/models/{model}/generate`; each event holds the next piece of `text_output`."""
    return await _stream(context, caller, model, None, request)


@router.post(
    "/versions/{version}/generate_stream", summary="The same, of one version", **_DOCUMENTED
)
async def generate_stream_with_version(
    model: str, version: str, request: Request, context: InContext, caller: InCaller
) -> Response:
    """As `POST /v2/models/{model}/generate_stream`, for a version of your choice."""
    return await _stream(context, caller, model, version, request)


class _Pieces(TokenStream):
    """Characters of one request as events of the protocol. The task that answers sets the rest."""

    def __init__(self, asked: Asked) -> None:
        super().__init__()
        self.asked = asked
        self.head: dict[str, Any] = {}
        self.task: asyncio.Task[Any] | None = None
        self.is_void = False

    def said(self, index: int, text: str) -> bytes:
        return event(self.head | {"text_output": text})

    def restarted(self, index: int) -> None:
        self.is_void = True
        assert self.task is not None, "set before anything is written"
        self.task.cancel()  # and with it the request, before it is run anew

    def last_of(self, answer: Answer) -> list[bytes]:
        told = [] if self.has_heard else [self.said(0, answer.texts[0])]
        if "parameters" in self.head:  # of a sequence: it is committed only now
            told.append(self.said(0, ""))
        return told

    def failed(self, error: CarryError) -> bytes:
        return event(error_json(error, self.asked))


async def _stream(
    context: Context, caller: Caller, name: str, version: str | None, request: Request
) -> Response:
    heard = _Pieces(Asked.of(request.scope))
    answering = _generate(context, caller, name, version, request, heard)
    return await stream(context, answering, heard)


async def _generate(
    context: Context,
    caller: Caller,
    name: str,
    version: str | None,
    request: Request,
    heard: _Pieces | None,
) -> Answer:
    started, asked_at = time.perf_counter_ns(), time.time()
    known, figures = Asked.of(request.scope), context.metrics.inference
    body: Body | None = None
    model: LoadedModel | None = None
    try:
        model = expected_model(context.engine.registry, name, version)
        context.engine.refuse_if_full(model)
        body = await receive(request, context.settings.max_body_bytes)
        asked = await read(context, body, read_generate)
        known.id = asked.id
        asked.refuse_stream_flag(is_stream=heard is not None)
        was_read = time.perf_counter_ns()
        model, head, text = await _write(
            context, caller, name, version, asked, asked_at, known, heard
        )
    except Exception as error:
        if model is not None:
            figures.failed(model.name, model.version, time.perf_counter_ns() - started)
        known.id = known.id or await id_of(context, request, body, error)
        raise
    response = json_response(head | {"text_output": text})
    ended = time.perf_counter_ns()
    figures.succeeded(model.name, model.version, 1, was_read - started, ended - was_read, 0)
    return Answer(response, [text])


async def _write(
    context: Context,
    caller: Caller,
    name: str,
    version: str | None,
    asked: GenerateRequest,
    asked_at: float,
    known: Asked,
    heard: _Pieces | None,
) -> tuple[LoadedModel, dict[str, Any], str]:
    """The model that wrote, all of the answer but the text, and the text."""
    engine, sequence = context.engine, Sequence.of(asked.sequence)
    if sequence is None or sequence.start:
        model = engine.registry.get(name, version)
    else:
        known.sequence = sequence.described(name)
        key = sequence.key(caller.tenant, name)
        model = await model_of_sequence(engine, name, version, key, sequence, is_fresh=True)
    observations = asked.observations_for(model)
    head = _head(model, asked)
    if heard is not None:
        heard.head, heard.task = head, asyncio.current_task()
        observations = observations.with_listener(heard.listener(0))
    if sequence is None:
        [packed] = await engine.predict(model, [(observations, None)], "last")
        return model, head, split_written(model, packed)[1]
    known.sequence = sequence.described(name)
    request = request_of_sequence(
        sequence, model, version, observations, None, "last", context.settings.default_ttl_s,
        restarts=context.settings.v2_start == "restart", asked_at=asked_at,
    )  # fmt: skip
    key, opening = sequence.key(caller.tenant, name), partial(context.quotas.open, caller)
    replying = run_sequence(engine, key, sequence, model.name, request, opening)
    reply = await _unless_void(heard, name, replying)
    model = engine.registry.get_for_reply(reply.record.header)
    head = _head(model, asked) | {"parameters": sequence.told(reply.step)}
    if heard is not None:
        heard.head = head
    return model, head, split_written(model, reply.outputs)[1]


async def _unless_void(heard: _Pieces | None, name: str, replying: Any) -> Any:  # noqa: ANN401
    try:
        return await replying
    except asyncio.CancelledError:
        if heard is None or not heard.is_void:
            raise
        raise ContentionError(case("contention", session=name, num_lost=1)) from None


def _head(model: LoadedModel, asked: GenerateRequest) -> dict[str, Any]:
    head = {"model_name": model.name, "model_version": model.version}
    return head | ({} if asked.id is None else {"id": asked.id})
