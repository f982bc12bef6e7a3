"""`/v1/models`: what is served, how good it is, and how it is doing."""

from fastapi import APIRouter, Response

from service.api.codec.encode import Json, json_response
from service.api.codec.schemas import ModelDetail, ModelList
from service.api.context import Context, InContext
from service.api.problems import error_responses
from service.contract.manifest import Manifest
from service.engine.models.loaded_model import LoadedModel

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="List the models", response_model=ModelList)
async def list_models(context: InContext) -> Response:
    """Every loaded model with its versions, and every other bundle, with the reason."""
    registry = context.engine.registry
    by_name: dict[str, list[LoadedModel]] = {}
    for model in registry.all():
        by_name.setdefault(model.name, []).append(model)
    models = [
        {
            "name": name,
            "title": versions[-1].manifest.title,
            "task": versions[-1].manifest.task,
            "default_version": versions[-1].version,
            "versions": [model.version for model in versions],
        }
        for name, versions in by_name.items()
    ]
    index = context.repository.index()
    others = {
        told: [f"{each.name}/{each.version}" for each in index if each.state == state]
        for told, state in (("unloading", "UNLOADING"), ("unloaded", "UNAVAILABLE"))
    }
    others["unloaded"] = [where for where in others["unloaded"] if where not in registry.refused]
    return json_response({"models": models, "refused": registry.refused} | others)


@router.get(
    "/{model}",
    summary="One model, its default version",
    response_model=ModelDetail,
    responses=error_responses(404),
)
async def get_model(model: str, context: InContext) -> Response:
    """What the model reads and answers, its measured quality, its data and its live figures."""
    return json_response(_detail(context, context.engine.registry.get(model)))


@router.get(
    "/{model}/versions/{version}",
    summary="One version of a model",
    response_model=ModelDetail,
    responses=error_responses(404),
)
async def get_model_version(model: str, version: str, context: InContext) -> Response:
    """As `GET /v1/models/{model}`, for a version of your choice."""
    return json_response(_detail(context, context.engine.registry.get(model, version)))


def _detail(context: Context, model: LoadedModel) -> Json:
    manifest = model.manifest
    forecast, text, generate = manifest.forecast, manifest.text, manifest.generate
    versions = context.engine.registry.versions(model.name)
    return {
        "name": model.name,
        "version": model.version,
        "default_version": versions[-1].version,
        "versions": [other.version for other in versions],
        "title": manifest.title,
        "description": manifest.description,
        "task": manifest.task,
        "provider": model.runner.provider,
        "state_bytes": model.layout.row_bytes,
        "columns": _columns(manifest),
        "frequency": forecast.frequency if forecast else None,
        "horizon": forecast.horizon if forecast else None,
        "quantiles": list(forecast.quantiles) if forecast else None,
        "context_steps": forecast.context_steps if forecast else None,
        "needs_start": model.time is not None,
        "labels": list(manifest.labels) if manifest.labels else None,
        "language": text.language if text else generate.language if generate else None,
        "characters": generate.characters if generate else None,
        "quality": [figure.model_dump(mode="json") for figure in manifest.quality],
        "data": [source.model_dump(mode="json") for source in manifest.training.data],
        "weights_licence": manifest.training.weights_licence,
        "weights_note": manifest.training.weights_note,
        "live": _live(context, model),
    }


def _columns(manifest: Manifest) -> list[Json] | None:
    if manifest.generate is not None and manifest.generate.columns is not None:
        return [{"name": name, "role": "vector"} for name in manifest.generate.columns]
    rows = manifest.forecast or manifest.tag
    return None if rows is None else [c.model_dump(mode="json") for c in rows.columns]


def _live(context: Context, model: LoadedModel) -> Json:
    live = context.metrics.totals().live(model.name, model.version)
    batches = live.batches
    return {
        "steps": live.steps,
        "predictions": live.predictions,
        "batches": batches,
        "mean_batch_rows": round(live.batch_rows / batches, 3) if batches else None,
        "mean_ort_ms": round(1000 * live.ort_s / batches, 4) if batches else None,
    }
