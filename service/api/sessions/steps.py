"""A step or a preview, from its body to the engine and back: what every door answers steps by."""

import asyncio
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
from service.api.operation import OnOutcome
from service.api.problems import carry_problem, unexpected_problem
from service.engine.models.loaded_model import LoadedModel
from service.engine.session.requests import StepRequest
from service.engine.session.rules import Reply
from service.engine.timing import RequestTiming
from service.errors import CarryError

STEPS_PATH = "/v1/sessions/{session}/steps"


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


async def answer_body(
    context: Context, caller: Caller, session: str, parts: list[bytes], key: str | None = None
) -> Response:
    """A step from the parts of its body to the answer; `key` is its Idempotency-Key."""
    data = b"".join(parts)
    is_big = len(data) > BIG_BODY_BYTES or is_crowded(data)
    body = BigBody(StepBody, parts) if is_big else parse_body(StepBody, data)
    return await answer_step(context, caller, session, body, key)


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


class StepCall:
    """One `POST` of a step whose body was received completely; an `Operation` of the fast path."""

    __slots__ = ("_context", "_data", "_session", "caller")
    route = STEPS_PATH

    def __init__(self, context: Context, caller: Caller, session: str, data: bytes) -> None:
        self._context = context
        self.caller = caller
        self._session = session
        self._data = data

    @property
    def path(self) -> str:
        return f"/v1/sessions/{self._session}/steps"

    def submit(
        self, timing: RequestTiming | None, on_outcome: OnOutcome
    ) -> "asyncio.Future[Any] | None":
        context, data = self._context, self._data
        queue = context.engine.cached_queue(context.key(self.caller, self._session))
        if queue is None or queue.worker is None or len(data) > BIG_BODY_BYTES or is_crowded(data):
            return None
        queue.worker.refuse_if_full()
        try:
            body = parse_body(StepBody, data)
            request = decode_step(context.view_of(queue.worker.model).reads, body)
        except CarryError:  # `respond` finds all that is wrong
            return None
        on_end = partial(self._on_end, request.emit, on_outcome)
        return context.engine.submit(queue.key, request, timing, on_end, queue)

    def _on_end(
        self, emit: Literal["last", "all"], on_outcome: OnOutcome, outcome: Reply | CarryError
    ) -> None:
        response: Response | Exception
        if isinstance(outcome, CarryError):
            response = outcome
        else:
            try:
                response = step_response(self._context, outcome, emit)
            except Exception as error:  # the request's boundary
                response = error
        on_outcome(response)

    async def respond(self) -> Response:
        return await answer_body(self._context, self.caller, self._session, [self._data])

    def problem(self, error: Exception) -> Response:
        return problem_of_step(error, self.path)


def problem_of_step(error: Exception, path: str) -> Response:
    if isinstance(error, CarryError):
        return carry_problem(error)
    return unexpected_problem(error, path)


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
