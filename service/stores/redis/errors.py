"""Failed replies of a server → the errors that a client receives."""

from typing import Any

from redis.exceptions import BusyLoadingError, RedisError, ResponseError

from service.errors import OutcomeUnknownError, StoreUnavailableError
from service.stores.redis.node import LostError, NotSentError, has_timed_out
from service.wordings import case

_REFUSALS = (
    "OOM", "READONLY", "LOADING", "MISCONF", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS", "BUSY",
    "TRYAGAIN", "NOAUTH", "NOPERM", "MOVED", "ASK", "NOSCRIPT",
)  # fmt: skip
"""Error codes of commands that the server did not carry out."""


def nothing_stored(problem: str, reply: object) -> StoreUnavailableError:
    """The error for a request that changed nothing in the store."""
    return StoreUnavailableError(
        f"{problem} ({reply}); nothing of this request was stored: retry", retry_after_s=1
    )


def failure_of(reply: object) -> StoreUnavailableError | None:
    """The error for a failed reply to a write; None if it succeeded."""
    if isinstance(reply, StoreUnavailableError):
        return reply
    if not isinstance(reply, Exception):
        return None
    error: StoreUnavailableError
    if isinstance(reply, NotSentError):
        error = nothing_stored("the session store cannot be reached", reply)
    elif isinstance(reply, (ResponseError, BusyLoadingError)) and _is_refusal(reply):
        error = nothing_stored("the session store refused the write", reply)
    else:
        error = OutcomeUnknownError(
            case("outcome-unknown", what=f"the session store's reply was lost ({reply})"),
            retry_after_s=1,
        )
    error.is_silent = has_timed_out(reply)
    error.__cause__ = reply
    return error


def unavailable_if_failed(replies: list[Any]) -> list[Any]:
    """The replies to reads.

    Raises:
        StoreUnavailableError: one of them is an error.
    """
    for reply in replies:
        if isinstance(reply, (NotSentError, LostError, RedisError)):
            error = nothing_stored("the session store could not be read", reply)
            error.is_silent = has_timed_out(reply)
            raise error from reply
    return replies


def _is_refusal(reply: Exception) -> bool:
    # redis-py has exception classes for some codes, and removes the code from their message.
    return type(reply) is not ResponseError or str(reply).partition(" ")[0] in _REFUSALS
