"""`python -m service`: serve until SIGTERM, or run a command; `--help` lists them, and settings.

A command is a module of `service.commands` with HELP, `add_arguments(parser)` and `run(arguments)`,
which returns the exit code.
"""

import argparse
import importlib
import pkgutil
import sys

import structlog

from service import commands
from service.app import service_version
from service.errors import StartUpError
from service.server import bind, serve
from service.settings import Settings, describe_settings, load_settings
from service.supervisor import supervise
from service.telemetry.logs import configure_logs

log = structlog.get_logger()


def main() -> None:
    """Console script. Exits with one clear line where a setting does not fit."""
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Serve recurrent models whose hidden state lives on the server.",
        epilog="settings (environment variables) and their defaults:\n\n" + describe_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=service_version())
    _add_commands(parser)
    arguments = parser.parse_args()
    try:
        if arguments.command is not None:
            sys.exit(arguments.run(arguments))
        settings = load_settings()
        configure_logs(settings.log_level, settings.log_format)
        run = serve if settings.workers == 1 else supervise
        run(settings, bind(settings), lambda: _say_ready(settings))
    except StartUpError as error:
        sys.exit(f"carry: {error}")


def _add_commands(parser: argparse.ArgumentParser) -> None:
    choices = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for found in pkgutil.iter_modules(commands.__path__):
        command = importlib.import_module(f"{commands.__name__}.{found.name}")
        name = found.name.replace("_", "-")
        its_parser = choices.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(its_parser)
        its_parser.set_defaults(run=command.run)


def _say_ready(settings: Settings) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    log.info("ready", page=f"http://{host}:{settings.port}/docs")


if __name__ == "__main__":
    main()
