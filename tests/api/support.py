"""The whole application in this process, over the small bundles."""

from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import httpx

from service.app import create_app
from service.settings import Settings
from tests.fakes.bundles import write_classifier, write_forecaster


@cache
def small_folder() -> Path:
    folder = Path(mkdtemp(prefix="carry-models-"))
    write_forecaster(folder)
    write_forecaster(folder, version="2", seed=2)
    write_classifier(folder)
    return folder


@asynccontextmanager
async def serving(**settings):
    app = create_app(Settings(**{"models": small_folder(), "store": "memory://"} | settings))
    async with app.app.router.lifespan_context(app.app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            client.app = app
            yield client
