"""What every route needs, handed in by `service.app` and reached through the request."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.engine.engine import Engine
from service.settings import Settings
from service.stores.record import Key
from service.telemetry.metrics import Metrics

_ONLY_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Context:
    """One application's parts."""

    engine: Engine
    settings: Settings
    metrics: Metrics

    def key(self, session: str) -> Key:
        return Key(_ONLY_TENANT, session)


def get_context(request: Request) -> Context:
    context = request.app.state.context
    assert isinstance(context, Context), "set by service.app before the first request"
    return context


InContext = Annotated[Context, Depends(get_context)]
