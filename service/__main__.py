"""`python -m service`: serve until SIGTERM; `--help` lists every setting."""

import argparse
import sys

import uvicorn

from service.app import create_app, service_version
from service.errors import StartUpError
from service.settings import describe_settings, load_settings
from service.telemetry.logs import configure_logs


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
        config = uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=int(settings.shutdown_grace_s),
            server_header=False,
        )
        server = uvicorn.Server(config)
        server.run()
    except StartUpError as error:
        sys.exit(f"carry: {error}")
    if not server.started:
        sys.exit(3)


if __name__ == "__main__":
    main()
