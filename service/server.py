"""One serving process: uvicorn with the application, on a socket that is already bound."""

import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from service.api.http.connection_limits import allow_descriptors
from service.api.http.fast_path import FastPath
from service.api.http.protocol import StepProtocol
from service.api.websocket.protocol import MAX_MESSAGE_BYTES, StreamProtocol
from service.app import create_app
from service.errors import StartUpError
from service.settings import Settings

_LAST_ANSWERS_S = 1
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(settings: Settings, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until a signal to stop; exits 3 if the application did not start.

    Raises:
        StartUpError: a setting is invalid.
    """
    app = create_app(settings)
    app.connections.max_connections = allow_descriptors(settings.max_connections)
    server = _Server(server_config(app, settings), on_ready)
    server.run(sockets=[listener])
    if not server.started:
        sys.exit(3)
    if app.context.engine.workers.left_running:
        # Everything is closed. ONNX Runtime aborts the process if the interpreter shuts down while
        # a graph is running.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def bind(settings: Settings) -> socket.socket:
    """Bind the address before models are loaded; connections are accepted when all is ready."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the protocol is IPPROTO_TCP. Without it, a body would wait
    # until the client acknowledges its head: 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        raise StartUpError(
            f"cannot listen on CARRY_HOST {settings.host} and CARRY_PORT {settings.port}"
            f" ({error.strerror}): stop the other server, or choose another address"
        ) from None
    return listener


def server_config(app: FastPath, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves `app`."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=StepProtocol,
        ws=StreamProtocol,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # costs more than a step, and numbers shrink little
        loop="asyncio",  # uvloop accepts one connection per iteration: bursts wait for seconds
        lifespan="on",
        log_config=None,  # `telemetry.logs` configures logging
        log_level="warning",
        access_log=False,
        reset_contextvars=True,  # asyncio may pass on those of an earlier request
        # After the grace the engine answers with errors, which need time to be sent.
        timeout_graceful_shutdown=math.ceil(settings.shutdown_grace_s) + _LAST_ANSWERS_S,
        server_header=False,
        headers=[("x-content-type-options", "nosniff")],
        proxy_headers=False,  # the address of a client is never used
    )


class _Server(uvicorn.Server):
    """Calls `on_ready` when it listens, and exits 0 after a graceful stop.

    uvicorn's own server would raise the signal again.
    """

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        handlers = {number: signal.signal(number, self.handle_exit) for number in _STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
