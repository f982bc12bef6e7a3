"""`POST /v1/models/{model}/predict`: answers without a session; nothing is kept."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from fastapi.openapi.models import Example

from service.api.auth.keys import Caller
from service.api.big_bodies import BigBodyRoute, answers_big_bodies
from service.api.codec.decode import Asked, decode_predict, read_predict
from service.api.codec.encode import (
    ForecastOptions,
    Json,
    encode_prediction,
    encode_tags,
    json_response,
)
from service.api.codec.examples import VECTOR_EXAMPLE
from service.api.codec.generation import split_written
from service.api.codec.schemas import PredictAnswer, PredictRequest
from service.api.context import Context, InContext
from service.api.events.generation import MEDIA_TYPE, InAccept, TokenStream, stream
from service.api.events.generation import Answer as WrittenAnswer
from service.api.problems import error_responses
from service.engine.models.loaded_model import LoadedModel
from service.stores.record.record import PackedOutputs

router = APIRouter(prefix="/v1/models/{model}", tags=["predict"], route_class=BigBodyRoute)

_EXAMPLES: dict[str, Example] = {
    "generate": {
        "summary": "Write on, by chance that can be repeated",
        "value": {
            "instances": [{"prompt": "hell", "max_tokens": 4, "temperature": 0.7, "seed": 3}]
        },
    },
    "vector": VECTOR_EXAMPLE,
    "classify": {
        "summary": "Two texts",
        "value": {
            "instances": [
                {"id": "a", "text": "A wonderful film."},
                {"id": "b", "text": "A waste of two hours."},
            ]
        },
    },
    "forecast": {
        "summary": "A short series: daily rows from `start` on",
        "value": {
            "instances": [
                {
                    "start": "2016-08-22",
                    "observations": [{"ridership": 19.9}, {"ridership": 20.4}, {"ridership": None}],
                }
            ],
            "quantiles": [0.05, 0.5, 0.95],
            "horizon": 7,
        },
    },
}
PredictBody = Annotated[PredictRequest, Body(openapi_examples=_EXAMPLES)]
_DOCUMENTED: dict[str, Any] = {
    "response_model": PredictAnswer,
    "responses": error_responses(400, 404, 413, 415, 422, 429, 500, 503),
}


async def _read_and_predict(
    context: Context,
    _caller: Caller,
    parts: list[bytes],
    _key: str | None,
    model: str,
    version: str | None = None,
) -> Response:
    loaded = context.engine.registry.get(model, version)
    reads = context.view_of(loaded).reads
    asked = await context.reader.call(read_predict, reads, parts, context.settings)
    options = ForecastOptions.of(loaded, asked.quantiles, asked.horizon)
    return await _answer(context, loaded, asked, options)


@router.post("/predict", summary="Predict with the default version", **_DOCUMENTED)
@answers_big_bodies(_read_and_predict)
async def predict(
    model: str, body: PredictBody, context: InContext, accept: InAccept = ""
) -> Response:
    """Answer every instance from a fresh state, batched together.

    One bad instance fails the whole call and is named in `detail`; nothing is half-answered.
    What models write comes as events, as it is written, with `Accept: text/event-stream`.
    """
    return await _predict(context, model, None, body, accept)


@router.post("/versions/{version}/predict", summary="Predict with one version", **_DOCUMENTED)
@answers_big_bodies(_read_and_predict)
async def predict_with_version(
    model: str, version: str, body: PredictBody, context: InContext, accept: InAccept = ""
) -> Response:
    """As `POST /v1/models/{model}/predict`, for a version of your choice."""
    return await _predict(context, model, version, body, accept)


async def _predict(
    context: Context, name: str, version: str | None, body: PredictRequest, accept: str
) -> Response:
    model = context.engine.registry.get(name, version)
    options = ForecastOptions.of(model, body.quantiles, body.horizon)
    asked = decode_predict(context.view_of(model).reads, body)
    if MEDIA_TYPE not in accept or model.manifest.generate is None:
        return await _answer(context, model, asked, options)
    heard = TokenStream()
    heard_of = [
        (observations.with_listener(heard.listener(index)), start_s)
        for index, (observations, start_s) in enumerate(asked.instances)
    ]
    answering = _answer_heard(context, model, asked._replace(instances=heard_of))
    return await stream(context, answering, heard)


async def _answer_heard(context: Context, model: LoadedModel, asked: Asked) -> WrittenAnswer:
    response = await _answer(context, model, asked, ForecastOptions.of(model, None, None))
    return WrittenAnswer(response, [])


async def _answer(
    context: Context, model: LoadedModel, asked: Asked, options: ForecastOptions
) -> Response:
    answers = await context.engine.predict(model, asked.instances)
    predictions = [
        ({} if name is None else {"id": name})
        | _prediction(model, packed, observations.num_observed, start_s, options)
        for name, packed, (observations, start_s) in zip(
            asked.ids, answers, asked.instances, strict=True
        )
    ]
    return json_response(
        {"model": model.name, "version": model.version, "predictions": predictions}
    )


def _prediction(
    model: LoadedModel,
    packed: PackedOutputs,
    num_observed: int,
    start_s: int | None,
    options: ForecastOptions,
) -> Json:
    written: Json = {}
    if model.manifest.generate is not None:
        packed, text = split_written(model, packed)
        written = {"text": text}
    outputs = model.runner.outputs.unpack(packed)
    if model.manifest.tag is not None:
        return encode_tags(model, outputs)
    return written | encode_prediction(model, outputs, 0, num_observed, start_s, options)
