"""`python -m service`: serve until SIGTERM, or run a command; `--help` lists commands and settings.

A command is a module of `service.commands` with HELP, `add_arguments(parser)` and `run(arguments)`,
which returns the exit code.
"""

import argparse
import importlib
import os
import pkgutil
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from service.settings import Settings

_EXTRAS: Final = {
    "onnxruntime": "cpu",  # or cuda
    "pyarrow": "bulk",
    "flatbuffers": "bulk",
    "httpx": "client",
    "websockets": "client",
    "opentelemetry": "tracing",
}
"""Package → the extra that installs it."""
_SIGPIPE_EXIT_CODE: Final = 141
"""A shell's exit code for a program that SIGPIPE ended."""


def main() -> None:
    """Console script. Reports an invalid setting or a missing package in one line."""
    try:
        try:
            _run()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # at exit a closed pipe would print a traceback
    except ModuleNotFoundError as error:
        sys.exit(f"carry: {_missing(error)}")
    except BrokenPipeError:
        # From `carry doctor | head`. Output that is left must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_SIGPIPE_EXIT_CODE)


def _run() -> None:
    # Imported here, so that a missing package is reported in one line.
    from service.app import service_version
    from service.errors import StartUpError
    from service.server import bind, serve
    from service.settings import describe_settings, load_settings
    from service.supervisor import supervise
    from service.telemetry.logs import configure_logs

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
        run(settings, bind(settings), lambda: _log_ready(settings))
    except StartUpError as error:
        sys.exit(f"carry: {error}")


def _missing(error: ModuleNotFoundError) -> str:
    """What to install. A missing module of this project is a bug, and raised."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "service"):
        raise error
    extra = f"[{_EXTRAS[package]}]" if package in _EXTRAS else ""
    return f'the package {package!r} is not installed: run pip install "carry-serving{extra}"'


def _add_commands(parser: argparse.ArgumentParser) -> None:
    from service import commands

    choices = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for found in pkgutil.iter_modules(commands.__path__):
        command = importlib.import_module(f"{commands.__name__}.{found.name}")
        name = found.name.replace("_", "-")
        its_parser = choices.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(its_parser)
        its_parser.set_defaults(run=command.run)


def _log_ready(settings: "Settings") -> None:
    import structlog

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    structlog.get_logger().info("ready", page=f"http://{host}:{settings.port}/docs")


if __name__ == "__main__":
    main()
