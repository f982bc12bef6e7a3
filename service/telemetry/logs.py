"""Structured logs on standard error: text for a person at a terminal, JSON for everything else.

Rule 1: records that libraries send to `logging` take the same path, from level warning only,
        whatever our own level is: at debug level some of them log the traffic of connections.
Rule 2: a log never contains an observation, text, state or key. Of an exception it contains type
        and traceback, and the message only if this project or the system wrote it: others
        (`float('…')`, pydantic, Redis) quote their input.
"""

import logging
import sys
import threading
from traceback import FrameSummary, StackSummary, walk_tb
from types import TracebackType

import structlog
from structlog.typing import EventDict, ExcInfo

from service.contract.errors import BundleError
from service.errors import CarryError, StartUpError

_WITHOUT_CLIENT_DATA = (StartUpError, BundleError, OSError, MemoryError)


def configure_logs(level: str, log_format: str) -> None:
    """Set up the logs of this process; called once, by `service.__main__`."""
    is_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if is_text
        else structlog.processors.JSONRenderer()
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.ExceptionRenderer(describe_exception),
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,  # calls below the level then return at once
    )
    foreign = logging.StreamHandler(sys.stderr)
    foreign.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, without_values, *shared],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[foreign], force=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(
        args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback
    )


def without_values(_: object, __: str, event: EventDict) -> EventDict:
    """Cuts asyncio's messages before the arguments, results and exceptions that they quote."""
    if event.get("logger") == "asyncio":
        event["event"] = str(event["event"]).partition("\n")[0].partition("(")[0]
    return event


def describe_exception(exc_info: ExcInfo) -> str:
    """A traceback in Python's format, without data of clients."""
    error: BaseException | None = exc_info[1]
    parts: list[str] = []
    while error is not None:
        message = f": {error}" if _is_free_of_client_data(error) else ""
        kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
        parts.append("".join(_frames(error.__traceback__)) + f"{kind}{message}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\ncaused\n\n".join(reversed(parts))


def _is_free_of_client_data(error: BaseException) -> bool:
    if isinstance(error, CarryError):
        return error.status >= 500  # those below 500 quote the request
    # ONNX Runtime names nodes and shapes of the graph only.
    is_of_runtime = type(error).__module__.startswith("onnxruntime.")
    return is_of_runtime or isinstance(error, _WITHOUT_CLIENT_DATA)


def _frames(traceback: TracebackType | None) -> list[str]:
    frames: list[FrameSummary] = StackSummary.extract(walk_tb(traceback))
    return StackSummary.from_list(frames).format()


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Replaces Python's own hook, which prints the message of the exception."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    structlog.get_logger().critical("uncaught", exc_info=(kind, error, traceback))
