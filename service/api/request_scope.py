"""How a request is followed: its timing begins here, and is read here when the request is over."""

from collections.abc import Mapping
from typing import Any

from service.api.context import Context
from service.engine.timing import RequestTiming, rounded


def begin_timing(
    context: Context, headers: Mapping[bytes, bytes], *, is_linked: bool = False
) -> RequestTiming | None:
    """The timing of a request that begins now; None where nobody would read it.

    `is_linked`: it is one of many that came under these headers.
    """
    if context.tracing is not None:
        return context.tracing.begin(headers, is_linked=is_linked)
    return RequestTiming() if context.settings.slow_request_s else None


def where_time_went(timing: RequestTiming, ended_s: float) -> dict[str, Any]:
    """The fields of a log line: the model, and how long each part took."""
    if timing.model is None:
        return {}
    said = {
        "model": timing.model.name,
        "version": timing.model.version,
        "batches": timing.num_batches,
    }
    return said | rounded(timing.spent(ended_s))
