"""How a request is followed: its trail begins here, and is read here when the request is over."""

from collections.abc import Mapping
from typing import Any

from service.api.context import Context
from service.engine.timing import Trail, rounded


def begin_trail(
    context: Context, headers: Mapping[bytes, bytes], *, is_linked: bool = False
) -> Trail | None:
    """The trail of a request that begins now; None where nobody would read it.

    `is_linked`: it is one of many that came under these headers.
    """
    if context.tracing is not None:
        return context.tracing.begin(headers, is_linked=is_linked)
    return Trail() if context.settings.slow_request_s else None


def where_time_went(trail: Trail, ended_s: float) -> dict[str, Any]:
    """The fields of a log line: the model, and how long each part took."""
    if trail.model is None:
        return {}
    said = {"model": trail.model.name, "version": trail.model.version, "batches": trail.num_batches}
    return said | rounded(trail.spent(ended_s))
