"""The only wiring: settings in, a FastAPI application out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

from service.api.auth.key_watch import KeyWatch
from service.api.auth.keys import KeyRing
from service.api.auth.middleware import RequireKey, document_keys, open_paths_of
from service.api.auth.quotas import Quotas
from service.api.auth.rate_limits import RateLimits
from service.api.body_reader.reader import BodyReader
from service.api.context import Context
from service.api.http.access_log import AccessLog
from service.api.http.fast_path import FastPath
from service.api.http.middleware import AnswerHead, LimitBody, RequireJson, SecureHeaders
from service.api.problems import install_error_handlers, problem_schema
from service.api.request_scope import document_ids
from service.api.routes import health, models, predict, timeseries
from service.api.sessions import bulk, events, generate, snapshots
from service.api.sessions import operations as session_operations
from service.api.sessions import routes as sessions
from service.api.v2 import generate as open_inference_generate
from service.api.v2 import infer as open_inference_infer
from service.api.v2 import metadata as open_inference
from service.api.v2 import repository as open_inference_repository
from service.api.v2.errors import (
    OpenInferenceErrors,
    install_open_inference_errors,
)
from service.api.v2.schemas import describe_open_inference
from service.api.websocket import asyncapi
from service.api.websocket import routes as stream_urls
from service.engine.engine import Engine
from service.engine.gc_tuning import settle_collector
from service.engine.graph.runner import resolve_provider
from service.engine.limits import DEFAULT_BATCH, EngineLimits
from service.engine.models.first_load import load_folder
from service.engine.models.folder import ModelsFolder
from service.engine.models.verifier import Verifier
from service.engine.repository import Repository
from service.engine.session.snapshots import SnapshotKeys
from service.errors import StartUpError
from service.settings import Settings
from service.stores.base import StoreOptions
from service.stores.factory import open_store
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from service.telemetry.tracing import Tracing

log = structlog.get_logger()

_DESCRIPTION = """
Recurrent models whose hidden state lives on the server.

Open a *session*, post each new observation as it happens, and get the new forecast or label back:
the past is in the state and is never sent again.
"""


def service_version() -> str:
    try:
        return version("carry-serving")
    except PackageNotFoundError:
        return "0+uninstalled"


def create_app(settings: Settings, verifier: Verifier | None = None) -> FastPath:
    """Load the models, open the store and build the application.

    `verifier` verifies bundles; by default the application starts its own.

    Raises:
        StartUpError: the models folder, the provider or the store cannot be used.
    """
    provider = resolve_provider(settings.provider)
    if verifier is None:
        verifier = Verifier(provider, settings.ort_threads, settings.load_timeout_s)
        verifier.start()  # it starts while the routes are built
    try:
        return _create_app(settings, provider, verifier)
    finally:
        verifier.rest()


def _create_app(settings: Settings, provider: str, verifier: Verifier) -> FastPath:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await engine.start()
        await repository.start()
        key_watch.start()
        settle_collector()
        log.info("serving", provider=registry.provider, store=settings.store.split("@")[-1])
        try:
            yield
        finally:
            key_watch.close()
            await repository.close()
            await engine.close(settings.shutdown_grace_s)
            await store.close()
            await rates.close()
            context.reader.close()
            if tracing is not None:
                await tracing.close()
            log.info("stopped")

    app = FastAPIOffline(  # /docs works without a network
        title="Carry",
        version=service_version(),
        description=_DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,  # Starlette would redirect to http, behind TLS as well
        openapi_tags=[
            {"name": "models", "description": "The served models."},
            {"name": "predict", "description": "Predictions without a session."},
            {"name": "sessions", "description": "Streams with carried state."},
            {"name": "operations", "description": "Health and metrics."},
            {"name": "open inference", "description": "Triton's protocol, sequences included."},
        ],
    )
    parts = (
        models, predict, timeseries, sessions, generate, session_operations, bulk, events,
        snapshots, stream_urls, asyncapi, open_inference, open_inference_infer,
        open_inference_generate, open_inference_repository, health,
    )  # fmt: skip
    for part in parts:  # `include_router` would build each route again
        app.router.routes.extend(part.router.routes)
    app.add_api_route("/", _to_docs, include_in_schema=False)

    threads = settings.ort_threads
    metrics = Metrics(service_version())
    snapshot_keys = SnapshotKeys.read(settings.snapshot_key_file)
    store = open_store(settings.store, store_options(settings))
    registry = load_folder(settings.models, provider, threads, verifier)
    engine = Engine(registry, store, _engine_limits(settings), metrics)
    repository = Repository(
        engine,
        ModelsFolder(settings.models, provider, threads, verifier, settings.load_timeout_s),
        grace_s=settings.unload_grace_s,
        poll_s=settings.models_poll_s,
        wait_s=settings.request_timeout_s,
    )
    keys = KeyRing(settings.api_keys_file)
    rates = RateLimits(settings.store, store_options(settings))
    quotas = Quotas(engine)
    tracing = _tracing(settings)
    key_watch = KeyWatch(keys, metrics.keys_file_looked_at)
    reader = BodyReader(settings.max_body_bytes)
    context = Context(
        engine,
        settings,
        metrics,
        keys,
        snapshot_keys,
        rates,
        quotas,
        repository,
        key_watch,
        tracing,
        reader,
    )

    app.add_middleware(LimitBody, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequireJson)
    app.add_middleware(RequireKey, keys=keys, rates=rates, open_paths=open_paths_of(settings))
    app.add_middleware(OpenInferenceErrors)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins.split(),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=[
                "authorization",
                "content-type",
                "idempotency-key",
                "x-request-id",
                "traceparent",
                "tracestate",
            ],
            expose_headers=["x-request-id", "traceresponse"],
        )
    app.add_middleware(AnswerHead)
    app.add_middleware(SecureHeaders)
    app.add_middleware(AccessLog, context=context)
    install_error_handlers(app)
    install_open_inference_errors(app)
    _document_problems(app, settings)
    app.state.context = context
    return FastPath(app, context)


async def _to_docs() -> RedirectResponse:
    return RedirectResponse("/docs")


def _tracing(settings: Settings) -> "Tracing | None":
    if not settings.otlp_endpoint:
        return None
    try:
        from service.telemetry.tracing import Tracing
    except ImportError as error:
        raise StartUpError(
            f"CARRY_OTLP_ENDPOINT is set, but {error.name} is not installed: install the extra"
            " 'tracing', or unset CARRY_OTLP_ENDPOINT"
        ) from None
    return Tracing(settings.otlp_endpoint, settings.traces_ratio, service_version())


def store_options(settings: Settings) -> StoreOptions:
    return StoreOptions(
        settings.durability,
        settings.store_timeout_s,
        settings.store_password_file,
        settings.store_ca_file,
    )


def _engine_limits(settings: Settings) -> EngineLimits:
    return EngineLimits(
        batch=DEFAULT_BATCH._replace(max_rows=settings.max_batch_rows),
        max_queue_s=settings.max_queue_s,
        cache_sessions=settings.cache_sessions,
        request_timeout_s=settings.request_timeout_s,
    )


def _document_problems(app: FastAPI, settings: Settings) -> None:
    """Describe problem documents in place of FastAPI's own error responses."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        schemas = document["components"]["schemas"]
        schemas["Problem"] = problem_schema()
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        for methods in document["paths"].values():
            for operation in methods.values():
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
        document_keys(document, open_paths_of(settings))
        describe_open_inference(document)
        document_ids(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI documents
