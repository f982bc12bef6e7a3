"""`python -m service`: serve until SIGTERM; `--help` lists every setting."""

import argparse
import sys

import structlog

from service.app import service_version
from service.errors import StartUpError
from service.server import bind, serve
from service.settings import Settings, describe_settings, load_settings
from service.supervisor import supervise
from service.telemetry.logs import configure_logs

log = structlog.get_logger()


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
        run = serve if settings.workers == 1 else supervise
        run(settings, bind(settings), lambda: _say_ready(settings))
    except StartUpError as error:
        sys.exit(f"carry: {error}")


def _say_ready(settings: Settings) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    log.info("ready", page=f"http://{host}:{settings.port}/docs")


if __name__ == "__main__":
    main()
