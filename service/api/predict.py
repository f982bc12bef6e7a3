"""`POST /v1/models/{model}/predict`: answers without a session; nothing is kept."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from fastapi.openapi.models import Example

from service.api.big_bodies import BigBodyRoute, answers_big_bodies
from service.api.context import Context, InContext
from service.api.decode import Asked, decode_predict, read_predict
from service.api.keys import Caller
from service.api.present import ForecastOptions, json_response, present_prediction
from service.api.problems import error_responses
from service.api.schemas import PredictAnswer, PredictRequest
from service.engine.registry import LoadedModel

router = APIRouter(prefix="/v1/models/{model}", tags=["predict"], route_class=BigBodyRoute)

_EXAMPLES: dict[str, Example] = {
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
    reads = context.face(loaded).reads
    asked = await context.reader.call(read_predict, reads, parts, context.settings)
    options = ForecastOptions.of(loaded, asked.quantiles, asked.horizon)
    return await _answer(context, loaded, asked, options)


@router.post("/predict", summary="Predict with the default version", **_DOCUMENTED)
@answers_big_bodies(_read_and_predict)
async def predict(model: str, body: PredictBody, context: InContext) -> Response:
    """Answer every instance from a fresh state, batched together.

    One bad instance fails the whole call and is named in `detail`; nothing is half-answered.
    """
    return await _predict(context, model, None, body)


@router.post("/versions/{version}/predict", summary="Predict with one version", **_DOCUMENTED)
@answers_big_bodies(_read_and_predict)
async def predict_with_version(
    model: str, version: str, body: PredictBody, context: InContext
) -> Response:
    """As `POST /v1/models/{model}/predict`, for a version of your choice."""
    return await _predict(context, model, version, body)


async def _predict(
    context: Context, name: str, version: str | None, body: PredictRequest
) -> Response:
    model = context.engine.registry.get(name, version)
    options = ForecastOptions.of(model, body.quantiles, body.horizon)
    asked = decode_predict(context.face(model).reads, body, context.settings)
    return await _answer(context, model, asked, options)


async def _answer(
    context: Context, model: LoadedModel, asked: Asked, options: ForecastOptions
) -> Response:
    answers = await context.engine.predict(model, asked.instances)
    unpack = model.runner.outputs.unpack
    predictions = [
        ({} if name is None else {"id": name})
        | present_prediction(model, unpack(packed), 0, observations.num_observed, start_s, options)
        for name, packed, (observations, start_s) in zip(
            asked.ids, answers, asked.instances, strict=True
        )
    ]
    return json_response(
        {"model": model.name, "version": model.version, "predictions": predictions}
    )
