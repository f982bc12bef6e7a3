"""`POST /v1/timeseries/forecast`: KServe's time-series protocol, for every model that forecasts.

Not supported: a second target (models forecast one column), partial answers (one bad input fails
the call and is named), versions other than the default one, months and longer (no model has a
frequency without a fixed length), counts of tokens.
"""

import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from fastapi import APIRouter, Body, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.models import Example

from service.api import limits
from service.api.auth.keys import Caller
from service.api.big_bodies import BigBodyRoute, answers_big_bodies
from service.api.codec.decode import decode_time
from service.api.codec.encode import ForecastOptions, Json, encode_prediction, json_response
from service.api.codec.rows import LARGEST, are_beyond
from service.api.codec.validation import invalid_request, parse_body, refuse_crowded
from service.api.context import Context, InContext
from service.api.problems import error_responses
from service.api.routes.timeseries_schemas import (
    TimeSeriesAnswer,
    TimeSeriesError,
    TimeSeriesInput,
    TimeSeriesRequest,
)
from service.contract.manifest import ForecastSpec
from service.engine.models.loaded_model import LoadedModel
from service.engine.session.requests import Observations
from service.errors import CarryError, InvalidInputError, TooLargeError
from service.settings import Settings

_LENGTHS_S: Final = {
    "S": 1, "T": 60, "H": 3600, "D": 86_400, "W": 604_800,
    "SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86_400, "WEEK": 604_800,
}  # fmt: skip
_UNIVARIATE: Final = "univariate_time_series"
_EXAMPLES: dict[str, Example] = {
    "univariate": {
        "summary": "One column, its first value on a Monday",
        "value": {
            "model": "transit-ridership",
            "inputs": [
                {
                    "type": "univariate_time_series",
                    "name": "clark-lake",
                    "series": [19.9, 20.4, 20.2, 20.1, 19.0, 7.1, 5.2],
                    "frequency": "D",
                    "start_timestamp": "2016-08-22T00:00:00Z",
                }
            ],
            "options": {"horizon": 7, "quantiles": [0.1, 0.5, 0.9]},
        },
    },
}


class _Series(NamedTuple):
    """`values` is `[T]` where it is univariate, else `[T, F]`; NaN is missing."""

    values: np.ndarray
    said: TimeSeriesInput


class _Asked(NamedTuple):
    model: str
    series: list[_Series]
    horizon: int
    quantiles: list[float]


class _Route(BigBodyRoute):
    """Errors in both forms: our problem document, with the protocol's `error` as a member."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        ordinary = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await ordinary(request)
            except RequestValidationError as invalid:
                error = invalid_request(invalid.errors())
                _say_in_both_forms(error)
                raise error from None
            except CarryError as error:
                _say_in_both_forms(error)
                raise

        return handle


router = APIRouter(prefix="/v1/timeseries", tags=["predict"], route_class=_Route)


async def _read_and_forecast(
    context: Context, _caller: Caller, parts: list[bytes], _key: str | None
) -> Response:
    asked = await context.reader.call(read_forecast, parts, context.settings)
    return await _answer(context, asked)


@router.post(
    "/forecast",
    summary="Forecast time series (KServe)",
    response_model=TimeSeriesAnswer,
    responses=error_responses(
        400, 404, 413, 415, 422, 429, 500, 503, beside={"error": TimeSeriesError}
    ),
)
@answers_big_bodies(_read_and_forecast)
async def forecast(
    body: Annotated[TimeSeriesRequest, Body(openapi_examples=_EXAMPLES)], context: InContext
) -> Response:
    """Answer every input from a fresh state, as KServe's time-series protocol asks and answers.

    The series is of the column that the model forecasts, its other columns are then missing; or
    `multivariate_time_series`, of all columns. One bad input fails the whole call and is named in
    `error.param`. Sessions, which need no past to be sent again, are at `/v1/sessions`.
    """
    return await _answer(context, _asked(body))


def read_forecast(parts: list[bytes], settings: Settings) -> _Asked:
    """A big body, for the process that reads those."""
    data = b"".join(parts)
    refuse_crowded(data, settings)
    return _asked(parse_body(TimeSeriesRequest, data))


def _asked(body: TimeSeriesRequest) -> _Asked:
    """Numbers as arrays, of whatever model.

    Raises:
        CarryError: too much, names that are not unique, or series of another type than is said.
    """
    num_rows = sum(len(each.series) for each in body.inputs)
    if len(body.inputs) > limits.MAX_INSTANCES or num_rows > limits.MAX_ROWS:
        raise TooLargeError(
            f"{len(body.inputs)} inputs of {num_rows} rows in all: expected at most"
            f" {limits.MAX_INSTANCES} and {limits.MAX_ROWS}; send them in several calls"
        )
    names, series = set[str](), []
    for index, each in enumerate(body.inputs):
        where = f"inputs[{index}]"
        if each.name in names:
            raise _invalid(f"{where}.name", f"{each.name!r} is that of an earlier input")
        names.add(each.name)
        if not each.series:
            raise _invalid(f"{where}.series", "is empty: expected at least one value")
        is_flat = not isinstance(each.series[0], list)
        if is_flat != (each.type == _UNIVARIATE):
            raise _invalid(f"{where}.series", f"is not of the type {each.type} that is said")
        widths = {len(row) for row in each.series if isinstance(row, list)}
        if len(widths) > 1:
            raise _invalid(f"{where}.series", f"has rows of {sorted(widths)} values: expected one")
        with np.errstate(over="ignore"):  # infinite, and refused below
            values = np.array(each.series, np.float32)
        if are_beyond(values).any():
            raise _invalid(f"{where}.series", f"holds a value beyond {LARGEST:g}: check its unit")
        series.append(_Series(values, each.model_copy(update={"series": []})))
    return _Asked(body.model, series, body.options.horizon, body.options.quantiles or [])


async def _answer(context: Context, asked: _Asked) -> Response:
    model = context.engine.registry.get(asked.model)
    spec = model.manifest.forecast
    if spec is None:
        raise _invalid(
            "model",
            f"{model.name!r} is not a forecaster: expected a model with the task 'forecast'",
        )
    options = ForecastOptions.of(model, asked.quantiles, asked.horizon)
    instances = [
        _instance(context, model, spec, series, f"inputs[{index}]")
        for index, series in enumerate(asked.series)
    ]
    packed = await context.engine.predict(model, instances)
    outputs = []
    for series, (observations, start_s), each in zip(asked.series, instances, packed, strict=True):
        unpacked = model.runner.outputs.unpack(each)
        told = encode_prediction(
            model, unpacked, 0, observations.num_observed, start_s, options
        )  # fmt: skip
        outputs.append(_output(series.said, told))
    return json_response(
        {
            "id": f"resp_{secrets.token_hex(16)}",
            "created_at": int(time.time()),
            "status": "completed",
            "error": None,
            "model": model.name,
            "outputs": outputs,
            "usage": None,
        }
    )


def _instance(
    context: Context, model: LoadedModel, spec: ForecastSpec, series: _Series, where: str
) -> tuple[Observations, int | None]:
    """The rows that a model reads, and the time of the first one."""
    said, columns = series.said, [column.name for column in spec.columns]
    if _LENGTHS_S.get(said.frequency.upper()) != spec.frequency_s:
        raise _invalid(
            f"{where}.frequency",
            f"is {said.frequency}: expected {spec.frequency}, that of model {model.name!r}",
        )
    start_s = decode_time(context.view_of(model).reads, said.start_timestamp, where)
    if start_s is None and model.time is not None:
        raise _invalid(
            f"{where}.start_timestamp",
            f"is missing: model {model.name!r} uses the time of each row; send that of the first",
        )
    if series.values.ndim == 1:
        rows = np.full((len(series.values), len(columns)), np.nan, np.float32)
        rows[:, columns.index(spec.target.name)] = series.values
        return Observations(rows=rows), start_s
    if series.values.shape[1] != len(columns):
        raise _invalid(
            f"{where}.series",
            f"has {series.values.shape[1]} values a row: expected {len(columns)}, {columns}",
        )
    return Observations(rows=series.values), start_s


def _output(said: TimeSeriesInput, told: Json) -> Json:
    return {
        "type": "time_series_forecast",
        "id": f"ts_{secrets.token_hex(16)}",
        "status": "completed",
        "content": [
            {
                "type": _UNIVARIATE,
                "name": said.name,
                "mean_forecast": told["mean"],
                "frequency": said.frequency,
                "start_timestamp": told["start"],
                "quantiles": told["quantiles"] or None,
            }
        ],
        "error": None,
    }


def _invalid(param: str, problem: str) -> InvalidInputError:
    return InvalidInputError(f"{param} {problem}", param=param)


def _say_in_both_forms(error: CarryError) -> None:
    members: dict[str, Any] = error.members
    members["error"] = {
        "code": str(error.status),
        "message": error.detail,
        "param": members.pop("param", None),
        "type": error.code,
    }
