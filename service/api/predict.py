"""`POST /v1/models/{model}/predict`: answers without a session; nothing is kept."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from fastapi.openapi.models import Example

from service.api.context import Context, InContext
from service.api.decode import decode_instance
from service.api.present import ForecastOptions, json_response, present_prediction
from service.api.problems import error_responses
from service.api.schemas import PredictAnswer, PredictRequest
from service.errors import TooLargeError

router = APIRouter(prefix="/v1/models/{model}", tags=["predict"])

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


@router.post("/predict", summary="Predict with the default version", **_DOCUMENTED)
async def predict(model: str, body: PredictBody, context: InContext) -> Response:
    """Answer every instance from a fresh state, batched together.

    One bad instance fails the whole call and is named in `detail`; nothing is half-answered.
    """
    return await _predict(context, model, None, body)


@router.post("/versions/{version}/predict", summary="Predict with one version", **_DOCUMENTED)
async def predict_with_version(
    model: str, version: str, body: PredictBody, context: InContext
) -> Response:
    """As `POST /v1/models/{model}/predict`, for a version of your choice."""
    return await _predict(context, model, version, body)


async def _predict(
    context: Context, name: str, version: str | None, body: PredictRequest
) -> Response:
    settings = context.settings
    model = context.engine.registry.get(name, version)
    if len(body.instances) > settings.max_instances:
        raise TooLargeError(
            f"{len(body.instances)} instances: expected at most {settings.max_instances};"
            " send them in several calls"
        )
    options = ForecastOptions.of(model, body.quantiles, body.horizon)
    reads = context.face(model).reads
    decoded = [
        decode_instance(reads, instance, settings, f"instances[{index}]")
        for index, instance in enumerate(body.instances)
    ]
    answers = await context.engine.predict(model, decoded)
    unpack = model.runner.outputs.unpack
    predictions = [
        ({} if instance.id is None else {"id": instance.id})
        | present_prediction(model, unpack(packed), 0, observations.num_observed, start_s, options)
        for instance, packed, (observations, start_s) in zip(
            body.instances, answers, decoded, strict=True
        )
    ]
    return json_response(
        {"model": model.name, "version": model.version, "predictions": predictions}
    )
