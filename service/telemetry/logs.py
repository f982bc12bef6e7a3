"""Structured logs on standard error: text for a person at a terminal, JSON for everything else.

Rule 1: what libraries log by `logging` goes the same way, warnings and worse only, whatever our own
        level is: at debug level some of them log what goes over their connections.
Rule 2: no observation, text, state or key stands in a log. Where an exception is logged, so are its
        type and where it was raised; what it says only if that was written by us or by the system,
        because others (`float('…')`, pydantic, Redis) quote what they were given.
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

_SAY_NOTHING_OF_CLIENTS = (StartUpError, BundleError, OSError, MemoryError)


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
    said_by_all: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.ExceptionRenderer(describe_exception),
    ]
    structlog.configure(
        processors=[*said_by_all, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,  # what is below the level is then dropped at once
    )
    foreign = logging.StreamHandler(sys.stderr)
    foreign.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, without_values, *said_by_all],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[foreign], force=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(
        args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback
    )


def without_values(_: object, __: str, said: EventDict) -> EventDict:
    """Of what asyncio logs, the first words: behind them are arguments, results and exceptions."""
    if said.get("logger") == "asyncio":
        said["event"] = str(said["event"]).partition("\n")[0].partition("(")[0]
    return said


def describe_exception(exc_info: ExcInfo) -> str:
    """A traceback as Python prints it, without what may be a client's."""
    error: BaseException | None = exc_info[1]
    parts: list[str] = []
    while error is not None:
        said = f": {error}" if _may_be_told(error) else ""
        kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
        parts.append("".join(_frames(error.__traceback__)) + f"{kind}{said}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\ncaused\n\n".join(reversed(parts))


def _may_be_told(error: BaseException) -> bool:
    if isinstance(error, CarryError):
        return error.status >= 500  # the others explain to a client what it sent
    # The runtime names nodes and shapes of the graph.
    is_of_runtime = type(error).__module__.startswith("onnxruntime.")
    return is_of_runtime or isinstance(error, _SAY_NOTHING_OF_CLIENTS)


def _frames(traceback: TracebackType | None) -> list[str]:
    frames: list[FrameSummary] = StackSummary.extract(walk_tb(traceback))
    return StackSummary.from_list(frames).format()


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """In the place of Python's own, which prints what the exception says."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    structlog.get_logger().critical("uncaught", exc_info=(kind, error, traceback))
