"""`python -m service`: serve until SIGTERM; `--help` lists every setting."""

import argparse
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn

from service.api.hot_path import HotPath
from service.api.protocol import StepProtocol
from service.app import create_app, service_version
from service.errors import StartUpError
from service.settings import Settings, describe_settings, load_settings
from service.telemetry.logs import configure_logs

log = structlog.get_logger()

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Console script. Exits 2 with one clear line where a setting does not fit."""
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Serve recurrent models whose hidden state lives on the server.",
        epilog="settings (environment variables) and their defaults:\n\n" + describe_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=service_version())
    parser.parse_args()
    try:
        settings = load_settings()
        configure_logs(settings.log_level, settings.log_format)
        listener = _bind(settings)
        config = server_config(create_app(settings), settings)
        server = _Server(config)
        server.run(sockets=[listener])
    except StartUpError as error:
        sys.exit(f"carry: {error}")
    if not server.started:
        sys.exit(3)


def server_config(app: HotPath, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves `app`."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=StepProtocol,
        lifespan="on",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s),
        server_header=False,
        proxy_headers=False,  # nothing here asks for the address of a client
    )


def _bind(settings: Settings) -> socket.socket:
    """Take the address before models are loaded; connections are accepted when all is ready."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        raise StartUpError(
            f"CARRY_HOST {settings.host} and CARRY_PORT {settings.port} cannot be listened on"
            f" ({error.strerror}): stop the other server, or choose others"
        ) from None
    return listener


class _Server(uvicorn.Server):
    """Says when it listens, and exits 0 after a graceful stop.

    uvicorn's own would end by the signal that it was sent.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        log.info("ready", page=f"http://{host}:{self.config.port}/docs")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {which: signal.signal(which, self.handle_exit) for which in _STOP_SIGNALS}
        try:
            yield
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)


if __name__ == "__main__":
    main()
