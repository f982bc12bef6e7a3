"""What every route needs, handed in by `service.app` and reached through the request."""

import asyncio
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, NamedTuple

from fastapi import Depends, Request

from service.api.auth.key_watch import KeyWatch
from service.api.auth.keys import Caller, KeyRing
from service.api.auth.quotas import Quotas
from service.api.auth.rate_limits import RateLimits
from service.api.body_reader.reader import BodyReader
from service.api.codec.decode import BodySpec, Catalog
from service.api.codec.encode import ForecastOptions
from service.engine.engine import Engine
from service.engine.models.loaded_model import LoadedModel
from service.engine.repository import Repository
from service.engine.session.snapshots import SnapshotKeys
from service.settings import Settings
from service.stores.record.record import Key
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:  # nothing of it is imported where there are no traces
    from service.telemetry.tracing import Tracing


class ModelView(NamedTuple):
    """What the API needs of a model for each request, worked out at its first one."""

    reads: BodySpec
    whole_forecast: ForecastOptions


@dataclass(frozen=True, slots=True)
class Context:
    """One application's parts."""

    engine: Engine
    settings: Settings
    metrics: Metrics
    keys: KeyRing
    snapshot_keys: SnapshotKeys
    rates: RateLimits
    quotas: Quotas
    repository: Repository
    key_watch: KeyWatch
    tracing: "Tracing | None" = None
    reader: BodyReader = field(default_factory=BodyReader)
    open_streams: set[object] = field(default_factory=set)
    """WebSockets and event streams, each from when it is open until it ends."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server is told to stop: what never ends by itself ends now."""
    _views: dict[int, ModelView] = field(default_factory=dict)
    """By the `id` of a model, for as long as it lives."""

    def stop(self) -> None:
        """The server was told to stop; called for each connection that is open then."""
        self.stopping.set()
        self.engine.stop_within(self.settings.shutdown_grace_s)

    def key(self, caller: Caller, session: str) -> Key:
        """Where a session of this name is kept, if the caller's tenant has one."""
        return Key(caller.tenant, session)

    def view_of(self, model: LoadedModel) -> ModelView:
        view_of = self._views.get(id(model))
        if view_of is None:
            options = ForecastOptions.of(model, None, None)
            view_of = self._views[id(model)] = ModelView(BodySpec.of(model.manifest), options)
            weakref.finalize(model, self._views.pop, id(model)).atexit = False
        return view_of

    def catalog(self) -> Catalog:
        """What every loaded model reads, for the process that does not have the models."""
        registry = self.engine.registry
        catalog: dict[tuple[str, str | None], BodySpec] = {}
        for model in registry.all():  # the newest of each comes last
            for version in (model.version, None):
                catalog[model.name, version] = self.view_of(model).reads
        return catalog


def get_context(request: Request) -> Context:
    context = request.app.state.context
    assert isinstance(context, Context), "set by service.app before the first request"
    return context


InContext = Annotated[Context, Depends(get_context)]
