"""The whole application in this process, over the small bundles."""

import asyncio
import atexit
import ssl
import threading
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import httpx
import uvicorn

from service.app import create_app
from service.engine.models.verifier import Verifier
from service.server import bind, server_config
from service.settings import Settings
from tests.fakes.bundles import (
    write_classifier,
    write_forecaster,
    write_generator,
    write_tagger,
)
from tests.leftovers import serving_on
from tests.system import in_thread

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that speak HTTP: each would load all certificates of the machine."""


@cache
def small_folder() -> Path:
    folder = Path(mkdtemp(prefix="carry-models-"))
    write_forecaster(folder)
    write_forecaster(folder, version="2", seed=2)
    write_classifier(folder)
    write_generator(folder)
    write_tagger(folder)
    return folder


@cache
def verifier() -> Verifier:
    """Shared, so that what one test found good is not tried again by all the others."""
    shared = Verifier("cpu", 1, limit_s=60.0)
    atexit.register(shared.close)
    return shared


@asynccontextmanager
async def serving(**settings):
    chosen = Settings(**{"models": small_folder(), "store": "memory://"} | settings)
    app = create_app(chosen, verifier())
    async with app.app.router.lifespan_context(app.app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            client.app = app
            yield client


async def until(is_so):
    """Return as soon as `is_so()` on this loop, for what nobody announces."""
    while not is_so():  # noqa: ASYNC110 -- there is no event to wait for
        await asyncio.sleep(0.005)


class _Server(uvicorn.Server):
    def capture_signals(self):
        return nullcontext()

    async def main_loop(self):
        await self.on_tick(0)  # sets the Date header
        await until(lambda: self.should_exit)  # uvicorn looks only every 100 ms


@asynccontextmanager
async def listening(**settings):
    """Served by uvicorn on a free port of this machine; `client.server` is uvicorn's."""
    chosen = Settings(**{"models": small_folder(), "store": "memory://"} | settings)
    app = create_app(chosen, verifier())
    server = _Server(server_config(app, chosen))
    listener = bind(chosen.model_copy(update={"host": "127.0.0.1", "port": 0}))
    port = listener.getsockname()[1]
    task = asyncio.create_task(server.serve([listener]))
    await until(lambda: server.started)
    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=60, verify=NO_TLS) as client:
            client.app, client.server, client.port = app, server, port
            yield client
    finally:
        server.should_exit = True
        await task


@contextmanager
def listening_apart(headers=None, **settings):
    """As `listening`, on a thread of its own: for clients that block."""
    ready, end = threading.Event(), threading.Event()
    served = []

    async def serve():
        async with listening(**settings) as client:
            served.append(client.base_url)
            ready.set()
            await asyncio.to_thread(end.wait)

    with serving_on(), in_thread(asyncio.run, serve(), stop=end.set):
        assert ready.wait(60), "the application did not start"
        with httpx.Client(base_url=served[0], headers=headers, timeout=20, verify=NO_TLS) as client:
            yield client
