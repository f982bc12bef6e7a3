"""`POST /v1/sessions/{session}/generate`: write on where a session stands."""

from typing import Annotated

from fastapi import APIRouter, Body, Path, Response
from fastapi.openapi.models import Example

from service.api.auth.keys import Caller
from service.api.auth.middleware import InCaller
from service.api.codec.fields import SessionName
from service.api.codec.generation import decode_generate, split_written
from service.api.codec.idempotency import InHeader, digest_of_key
from service.api.codec.schemas import GenerateAnswer, GenerateBody
from service.api.context import Context, InContext
from service.api.events.generation import MEDIA_TYPE, Answer, InAccept, TokenStream, stream
from service.api.problems import error_responses
from service.api.sessions.steps import step_response

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

InPath = Annotated[SessionName, Path(description="The session's name.")]
_EXAMPLES: dict[str, Example] = {
    "generate": {
        "summary": "Read a text, then write on, exactly once (session my-word)",
        "value": {"step": 0, "text": "he", "max_tokens": 3, "temperature": 0.7, "seed": 7},
    }
}


@router.post(
    "/{session}/generate",
    summary="Write on",
    response_model=GenerateAnswer,
    responses=error_responses(400, 404, 409, 413, 415, 422, 429, 500, 503)
    | {200: {"content": {MEDIA_TYPE: {}}, "description": "As one answer, or as events"}},
)
async def generate_on(
    session: InPath,
    body: Annotated[GenerateBody, Body(openapi_examples=_EXAMPLES)],
    context: InContext,
    caller: InCaller,
    accept: InAccept = "",
    idempotency_key: InHeader = None,
) -> Response:
    """Sample characters one by one, each fed back, and commit them together as one step.

    The session's state, its step, `seed` and `temperature` decide what is written, on any replica.
    A retry with its `step` is answered by the same text. With `Accept: text/event-stream` events
    `text` come as it is written, then `done` with the answer, once it is committed.
    """
    if MEDIA_TYPE not in accept:
        return (await _answer(context, caller, session, body, idempotency_key, None)).response
    heard = TokenStream()
    answering = _answer(context, caller, session, body, idempotency_key, heard)
    return await stream(context, answering, heard)


async def _answer(
    context: Context,
    caller: Caller,
    session: str,
    body: GenerateBody,
    key: str | None,
    heard: TokenStream | None,
) -> Answer:
    model = await context.engine.model_of(context.key(caller, session), is_fresh=True)
    listener = None if heard is None else heard.listener(0)
    request = decode_generate(model, body, listener)
    request = request._replace(key=digest_of_key(key) if body.step is None else None)
    reply = await context.engine.submit(context.key(caller, session), request)
    return Answer(step_response(context, reply, "last"), [split_written(model, reply.outputs)[1]])
