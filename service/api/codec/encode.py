"""From the engine's replies to JSON: the one place that knows what a task's answer looks like."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import orjson
from fastapi import Response

from service.api.codec.forecast_encoder import ForecastJson
from service.api.codec.generation import encode_next, split_written
from service.api.codec.tensors import tensor_json
from service.contract.manifest import ForecastSpec
from service.engine.models.loaded_model import LoadedModel
from service.engine.session.inputs import row_time_s
from service.engine.session.rules import Reply
from service.errors import InvalidInputError
from service.stores.record.record import PackedOutputs, Record

Json = dict[str, Any]

_LAST_S = 253_402_300_799.0
"""The end of the year 9999."""


@dataclass(frozen=True, slots=True)
class ForecastOptions:
    """Which quantile levels (by their keys in the answer) and how many rows to answer."""

    places: Mapping[str, int]
    """Level as it is written → its place on the last axis."""
    horizon: int
    json: ForecastJson | None = None
    """Writes it faster, where it can."""

    @classmethod
    def of(
        cls, model: LoadedModel, quantiles: list[float] | None, horizon: int | None
    ) -> "ForecastOptions":
        """Check what a client chose.

        Raises:
            InvalidInputError: a level or a horizon that the model does not have.
        """
        spec = model.manifest.forecast
        if spec is None:
            if quantiles is not None or horizon is not None:
                raise InvalidInputError(
                    f'model {model.name!r} is not a forecaster: expected no "quantiles", "horizon"'
                )
            return cls({}, 0)
        if horizon is not None and horizon > spec.horizon:
            raise InvalidInputError(f"horizon is {horizon}: expected at most {spec.horizon}")
        missing = [level for level in quantiles or [] if level not in spec.quantiles]
        if missing:
            raise InvalidInputError(
                f"quantiles {missing} are not answered by model {model.name!r}: expected some of"
                f" {list(spec.quantiles)}"
            )
        wanted = spec.quantiles if quantiles is None else quantiles
        places = {f"{level:g}": spec.quantiles.index(level) for level in wanted}
        horizon = horizon or spec.horizon
        return cls(places, horizon, ForecastJson.of(model.manifest, [*places.items()], horizon))


def encode_prediction(
    model: LoadedModel,
    outputs: Mapping[str, np.ndarray],
    place: int,
    after_step: int,
    start_s: int | None,
    options: ForecastOptions,
) -> Json:
    """One prediction: `outputs` are `[n, …]`, `place` which of the n, made after `after_step`."""
    graph, forecast = model.manifest.graph, model.manifest.forecast
    by_role: dict[str, np.ndarray] = {s.role: outputs[s.name][place] for s in graph.outputs}
    if forecast is not None:
        start = None if start_s is None else rfc3339(row_time_s(model, start_s, after_step))
        return _present_forecast(forecast, by_role, start, options)
    if graph.tensors:
        return {"tensors": {s.name: tensor_json(outputs[s.name][place]) for s in graph.outputs}}
    if model.manifest.generate is not None:
        return encode_next(model.manifest.generate, by_role["logits"])
    labels = model.manifest.labels or ()
    probabilities = by_role["probabilities"]
    return {
        "label": labels[int(np.argmax(probabilities))],
        "probabilities": dict(zip(labels, probabilities, strict=True)),
    }


def encode_tags(model: LoadedModel, outputs: Mapping[str, np.ndarray]) -> Json:
    """A label for each of the n rows that were read."""
    labels = model.manifest.labels or ()
    [spec] = model.manifest.graph.outputs
    rows = outputs[spec.name]
    return {
        "labels": [labels[place] for place in rows.argmax(axis=1).tolist()],
        "probabilities": [dict(zip(labels, row, strict=True)) for row in rows],
    }


def encode_reply(
    model: LoadedModel, reply: Reply, emit: Literal["last", "all"], options: ForecastOptions
) -> Json:
    """The prediction after a request's last observation, or one after each of them."""
    if not reply.outputs:
        return {}
    packed, written = reply.outputs, {}
    if model.manifest.generate is not None:
        packed, text = split_written(model, packed)
        written = {"text": text} if text else {}
    if emit == "last" and options.json is not None:
        return {"prediction": _written_forecast(model, reply, packed, options.json)}
    outputs = model.runner.outputs.unpack(packed)
    if model.manifest.tag is not None:
        return {"prediction": encode_tags(model, outputs)}
    count = len(next(iter(outputs.values())))
    start_s, before = reply.record.header.start_s, reply.step - count + 1
    if emit == "last":
        place = count - 1
        last = encode_prediction(model, outputs, place, before + place, start_s, options)
        return written | {"prediction": last}
    predictions = [
        encode_prediction(model, outputs, place, before + place, start_s, options)
        for place in range(count)
    ]
    return {"predictions": predictions}


def _written_forecast(
    model: LoadedModel, reply: Reply, packed: PackedOutputs, json: ForecastJson
) -> orjson.Fragment:
    start_s = reply.record.header.start_s
    start = None if start_s is None else rfc3339(row_time_s(model, start_s, reply.step))
    return json.write(packed[-model.runner.outputs.step_bytes :], start)


def encode_session(record: Record, layout_norms: Mapping[str, float], now: float) -> Json:
    """A session as `GET` and lists show it."""
    opening, kept = record.header, record.history
    return {
        "session": opening.name,
        "model": opening.model,
        "version": opening.version,
        "step": record.step,
        "start": None if opening.start_s is None else rfc3339(opening.start_s),
        "created_at": rfc3339(opening.created_at),
        "updated_at": rfc3339(record.updated_at),
        "expires_at": rfc3339(record.expires_at),
        "ttl_s": record.ttl_s,
        "age_s": round(max(0.0, now - opening.created_at), 3),
        "state_bytes": record.state_bytes,
        "state_norms": layout_norms,
        "pending_chars": len(record.cursor.pending.strip()),
        "replay": opening.ring_size,
        "checkpoints": [checkpoint.step for checkpoint in kept.checkpoints],
        "kept_observations": len(kept.observations),
        "metadata": opening.metadata or {},
    }


@lru_cache(maxsize=1024)  # those of one group of commits expire together
def rfc3339(time_s: float) -> str:
    """Whole seconds stay whole: `2016-08-29T00:00:00Z`. What no calendar has is its last second."""
    if not time_s < _LAST_S:
        time_s = _LAST_S
    second = math.floor(time_s)
    # As `datetime` does it: rounded to microseconds, then cut to milliseconds.
    millisecond = round((time_s - second) * 1_000_000) // 1000
    if millisecond == 1000:
        second, millisecond = second + 1, 0
    return f"{_second(second)}.{millisecond:03}Z" if millisecond else f"{_second(second)}Z"


@lru_cache(maxsize=4096)  # and those that step together in the same few seconds
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).replace(tzinfo=None).isoformat()


class JsonResponse(Response):
    """As Starlette's, with less work for headers that are known."""

    media_type = "application/json"

    def __init__(self, body: bytes, status: int, headers: Mapping[str, str]) -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
            *((name.lower().encode(), value.encode()) for name, value in headers.items()),
        ]


def json_response(
    body: Json | list[Json], status: int = 200, headers: Mapping[str, str] = MappingProxyType({})
) -> Response:
    """NumPy values are written as they are, at float32's own precision."""
    data = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
    return JsonResponse(data, status, headers)


def _present_forecast(
    spec: ForecastSpec,
    by_role: Mapping[str, np.ndarray],
    start: str | None,
    options: ForecastOptions,
) -> Json:
    mean = by_role["mean"][: options.horizon]
    columns = np.ascontiguousarray(by_role["quantiles"][: options.horizon].T)  # [Q, K]
    return {
        "start": start,
        "frequency": spec.frequency,
        "mean": mean,
        "quantiles": {key: columns[place] for key, place in options.places.items()},
    }
