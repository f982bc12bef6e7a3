"""A step or a preview, from its body to the engine and back: what every door answers steps by."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

from fastapi import Response

from service.api.auth.keys import Caller
from service.api.body_reader.reader import BIG_BODY_BYTES
from service.api.codec.decode import decode_step, read_step
from service.api.codec.encode import Json, encode_reply, json_response, rfc3339
from service.api.codec.idempotency import digest_of_key
from service.api.codec.schemas import Observed, StepBody
from service.api.codec.validation import is_crowded, parse_body
from service.api.context import Context
from service.engine.models.loaded_model import LoadedModel
from service.engine.session.requests import StepRequest
from service.engine.session.rules import Reply
from service.engine.timing import RequestTiming
from service.errors import CarryError

STEPS_PATH = "/v1/sessions/{session}/steps"
"""Answered by `http/fast_path.py`, which calls `answer_step`."""


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
    replied = await reply_to_step(context, caller, session, body, idempotency_key)
    return step_response(context, *replied)


async def reply_to_step(
    context: Context,
    caller: Caller,
    session: str,
    body: Observed | BigBody,
    idempotency_key: str | None = None,
) -> tuple[Reply, Literal["last", "all"]]:
    """What a step or a preview comes to, and what of it shall be told."""
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
    return await context.engine.submit(key, request), request.emit


OnReply = Callable[[Literal["last", "all"], Reply | CarryError], None]
"""Takes what became of a step, and what of it shall be told."""


def submit_cached(
    context: Context,
    caller: Caller,
    session: str,
    data: bytes,
    timing: RequestTiming | None,
    on_reply: OnReply,
) -> "asyncio.Future[Any] | None":
    """Submit a step of a session whose model is known here, from a body that is as it should be.

    The same as `answer_step` without asking anybody; None, with nothing done, where that is needed.
    What it returns may be cancelled, if nobody waits for the reply any more.

    Raises:
        QueueFullError: the model has more work than it should; the body was not even read.
    """
    engine = context.engine
    queue = engine.cached_queue(context.key(caller, session))
    if queue is None or queue.worker is None or len(data) > BIG_BODY_BYTES or is_crowded(data):
        return None
    queue.worker.refuse_if_full()
    try:
        body = parse_body(StepBody, data)
        request = decode_step(context.view_of(queue.worker.model).reads, body)
    except CarryError:  # the slow path answers it, with all that is wrong
        return None
    return engine.submit(queue.key, request, timing, partial(on_reply, request.emit), queue)


def step_response(context: Context, reply: Reply, emit: Literal["last", "all"]) -> Response:
    """What a step or a preview came to."""
    return json_response(step_answer(context, reply, emit), headers=replay_header(reply))


def step_answer(context: Context, reply: Reply, emit: Literal["last", "all"]) -> Json:
    """The members that every answer to a step has."""
    record = reply.record
    model = reply.model or context.engine.registry.get_for_reply(record.header)
    return {
        "session": record.header.name,
        "step": reply.step,
        "expires_at": rfc3339(record.expires_at),
    } | encode_reply(model, reply, emit, context.view_of(model).whole_forecast)


def replay_header(reply: Reply) -> dict[str, str]:
    return {"Idempotent-Replayed": "true"} if reply.is_replay else {}


async def _request_of(
    context: Context, model: LoadedModel, body: Observed | BigBody
) -> StepRequest:
    reads, settings = context.view_of(model).reads, context.settings
    if isinstance(body, BigBody):
        return await context.reader.call(read_step, reads, body.schema, body.parts, settings)
    return decode_step(reads, body)
