"""`POST /v1/steps`: steps of many sessions in one request, as JSON or as Arrow columns.

Rule 1: each row succeeds or fails alone; after a failed row the later ones of its session are
        skipped. Those of one session are applied in order; in an Arrow request as runs, each of
        them one request of its session (`engine.bulk_runs`).
Rule 2: in an Arrow request all sessions are of one model, that of the first one found; there is no
        object for a row between the socket and the graph, but its key and its record.
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example
from fastapi.routing import APIRoute

from service.api import limits
from service.api.auth.keys import Caller
from service.api.auth.middleware import InCaller, get_caller
from service.api.body_reader.reader import BIG_BODY_BYTES
from service.api.codec.decode import decode_step
from service.api.codec.encode import Json, json_response
from service.api.codec.idempotency import IDEMPOTENCY_KEY, refuse_key
from service.api.context import Context, InContext, get_context
from service.api.problems import error_responses, problem_of
from service.api.sessions.bulk_models import Models
from service.api.sessions.bulk_schemas import BulkAnswer, BulkBody, BulkStep
from service.api.sessions.steps import step_answer
from service.engine.dispatch.bulk import Outcomes, skipped
from service.engine.models.loaded_model import LoadedModel
from service.engine.session.requests import StepRequest
from service.engine.session.rules import MAX_RING_BYTES, Reply
from service.errors import (
    CarryError,
    InvalidInputError,
    TooLargeError,
    UnsupportedMediaTypeError,
)
from service.stores.record.record import Key

BULK_PATH = "/v1/steps"
ARROW = "application/vnd.apache.arrow.stream"

_EXAMPLES: dict[str, Example] = {
    "two": {
        "summary": "A row and a text (sessions my-station and my-review)",
        "value": {
            "steps": [
                {
                    "session": "my-station",
                    "step": 2,
                    "observations": [{"ridership": 20.1, "temp_max": 71.2}],
                },
                {"session": "my-review", "step": 0, "text": "What a wond"},
            ]
        },
    }
}


class _BulkRoute(APIRoute):
    """As FastAPI's, but an Arrow body is answered as one, and a big JSON body is not parsed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        ordinary = super().get_route_handler()

        async def handle(request: Request) -> Response:
            refuse_key("a bulk", is_given=IDEMPOTENCY_KEY in request.headers)
            data = await request.body()
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind == ARROW:
                return await _answer_arrow(get_context(request), get_caller(request), data)
            if len(data) > BIG_BODY_BYTES:
                raise TooLargeError(
                    f"the JSON body has {len(data)} bytes: expected at most {BIG_BODY_BYTES}; send"
                    f" it in parts, or as {ARROW}"
                )
            return await ordinary(request)

        return handle


router = APIRouter(tags=["sessions"], route_class=_BulkRoute)


@router.post(
    BULK_PATH,
    summary="Step many sessions",
    response_model=BulkAnswer,
    responses=error_responses(400, 413, 415, 422, 429, 503),
    openapi_extra={
        "requestBody": {"content": {ARROW: {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def step_many(
    body: Annotated[BulkBody, Body(openapi_examples=_EXAMPLES)],
    context: InContext,
    caller: InCaller,
) -> Response:
    """Each row is a step, and succeeds or fails alone: `status` is what HTTP would have answered.

    Rows of one session are applied in order; after a failed one its later rows are `skipped`. Send
    `step` to be able to repeat the request; an Idempotency-Key is refused. As an Arrow IPC stream:
    columns `session`, `step` and one for each of the model's (or `observations`, a fixed-size list
    in their order), all sessions of one model; answered by columns `session`, `step`, `status`,
    `error` and the model's outputs. There the rows of one session that follow one another are
    applied, and kept for a repetition, as one request of up to 4096 rows and 1 MiB of answers.
    """
    keys = [context.key(caller, each.session) for each in body.steps]
    models = Models(context.engine)
    errors: dict[int, CarryError] = {}
    failed: set[Key] = set()
    places: list[int] = []
    requests: list[tuple[Key, StepRequest]] = []
    for place, (key, step) in enumerate(zip(keys, body.steps, strict=True)):
        try:
            if key in failed:
                raise skipped(key)
            requests.append((key, await _decoded(context, models, key, step, place)))
            places.append(place)
        except CarryError as error:
            errors[place] = error
            failed.add(key)
    outcomes = await context.engine.submit_many(requests)
    results: list[Json] = [{} for _ in keys]
    for place, refusal in errors.items():
        results[place] = _failure(keys[place], refusal)
    for number, place in enumerate(places):
        problem = outcomes.errors.get(number)
        if problem is not None:
            results[place] = _failure(keys[place], problem)
            continue
        reply = Reply(outcomes.records[number], outcomes.steps[number], outcomes.outputs[number])
        answer = step_answer(context, reply, requests[number][1].emit)
        replayed = {"replayed": True} if number in outcomes.replayed else {}
        results[place] = {"status": 200} | answer | replayed
    return json_response({"results": results})


async def _decoded(
    context: Context, models: Models, key: Key, step: BulkStep, place: int
) -> StepRequest:
    model, where = await models.of(key), f"body.steps[{place}]"
    try:
        return decode_step(context.view_of(model).reads, step, where)
    except CarryError:
        fresh = await models.afresh(key)
        if fresh is model:
            raise
        return decode_step(context.view_of(fresh).reads, step, where)


async def _answer_arrow(context: Context, caller: Caller, data: bytes) -> Response:
    try:
        from service.api.sessions import arrow
    except ImportError:
        raise UnsupportedMediaTypeError(
            f"{ARROW} needs pyarrow, which is not installed here: install the extra 'bulk' (pip"
            " install 'carry-serving[bulk]'), or send JSON"
        ) from None
    rows = arrow.read_rows(data, limits.MAX_ROWS)
    keys = [context.key(caller, session) for session in rows.sessions]

    def read(model: LoadedModel) -> tuple[np.ndarray, dict[int, InvalidInputError]]:
        _bound(context, model, len(keys))
        return arrow.observations_of(rows, model)

    model, errors, observed = await _read_alike(Models(context.engine), keys, read)
    if model is None or observed is None:
        answered = _told(errors)
        steps = [-1] * len(keys)
        return _arrow(arrow.write_answers(rows.sessions, steps, answered, {}))
    values, unreadable = observed
    if unreadable:
        _fail_rows(keys, errors, unreadable)
    layout = model.runner.outputs
    run_rows = max(1, min(_MAX_RUN_ROWS, MAX_RING_BYTES // layout.step_bytes))
    steps, outputs = [-1] * len(keys), [bytes(layout.step_bytes)] * len(keys)
    if errors:
        places = [place for place in range(len(keys)) if place not in errors]
        outcomes = Outcomes([], [])
        if places:
            outcomes = await context.engine.step_rows(
                [keys[place] for place in places],
                values[places],
                [rows.steps[place] for place in places],
                run_rows,
            )
        for number, place in enumerate(places):
            if number in outcomes.errors:
                errors[place] = outcomes.errors[number]
            else:
                steps[place], outputs[place] = outcomes.steps[number], outcomes.outputs[number]
    else:
        outcomes = await context.engine.step_rows(keys, values, rows.steps, run_rows)
        steps, outputs, errors = outcomes.steps, outcomes.outputs, outcomes.errors
        for place in errors:
            outputs[place] = bytes(layout.step_bytes)
    answers = layout.unpack(b"".join(outputs))
    return _arrow(arrow.write_answers(rows.sessions, steps, _told(errors), answers))


_MAX_RUN_ROWS = 4096
"""Rows of one session that are applied as one request; their answers fit its ring of replies."""
_WIDE = 8
"""An answer of many rows may be as many times as large as that of one request of steps."""


_Read = TypeVar("_Read")


async def _read_alike(
    models: Models, keys: list[Key], read: Callable[[LoadedModel], _Read]
) -> tuple[LoadedModel | None, dict[int, CarryError], _Read | None]:
    """The model of all rows, those that are not of it, and what was read by it."""
    model, errors = await models.shared(keys)
    if model is None:
        return None, errors, None
    try:
        return model, errors, read(model)
    except CarryError:
        first = next(key for place, key in enumerate(keys) if place not in errors)
        if not await models.misled(first, model):
            raise
    model, errors = await models.shared(keys, is_fresh=True)
    return model, errors, None if model is None else read(model)


def _fail_rows(
    keys: list[Key], errors: dict[int, CarryError], unreadable: Mapping[int, CarryError]
) -> None:
    """Add the rows that could not be read, and those behind them in their sessions, as skipped."""
    failed: set[Key] = set()
    for place, key in enumerate(keys):
        if place in errors:
            continue
        if key in failed:
            errors[place] = skipped(key)
        elif place in unreadable:
            errors[place] = unreadable[place]
            failed.add(key)


def _bound(context: Context, model: LoadedModel, num_rows: int) -> None:
    num_bytes, most = num_rows * model.runner.outputs.step_bytes, limits.MAX_REPLY_BYTES
    if num_bytes > most * _WIDE:
        raise TooLargeError(
            f"the answer to {num_rows} rows has {num_bytes} bytes: expected at most"
            f" {most * _WIDE}; send them in parts"
        )


def _told(errors: dict[int, CarryError]) -> dict[int, tuple[int, str]]:
    return {place: (e.status, f"{e.code}: {e.detail}") for place, e in errors.items()}


def _arrow(data: bytes) -> Response:
    return Response(data, media_type=ARROW)


def _failure(key: Key, error: CarryError) -> Json:
    problem = problem_of(error, BULK_PATH)
    return {"status": problem["status"], "session": key.name, "error": problem}
