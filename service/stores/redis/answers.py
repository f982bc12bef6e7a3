"""What a server said in the place of an answer → the error that a client gets."""

from typing import Any

from redis.exceptions import BusyLoadingError, RedisError, ResponseError

from service.errors import OutcomeUnknownError, StoreUnavailableError
from service.stores.redis.node import LostError, NotSentError, has_timed_out
from service.wordings import case

_REFUSALS = (
    "OOM", "READONLY", "LOADING", "MISCONF", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS", "BUSY",
    "TRYAGAIN", "NOAUTH", "NOPERM", "MOVED", "ASK", "NOSCRIPT",
)  # fmt: skip
"""Answers before anything of a command was carried out, by their first word."""


def failure_of(reply: object) -> StoreUnavailableError | None:
    """The error for a reply that is none; None for an answer."""
    if isinstance(reply, StoreUnavailableError):
        return reply
    if not isinstance(reply, Exception):
        return None
    error: StoreUnavailableError
    if isinstance(reply, NotSentError):
        error = StoreUnavailableError(
            f"the session store cannot be reached ({reply}); nothing of this request was stored:"
            " try again",
            retry_after_s=1,
        )
    elif isinstance(reply, (ResponseError, BusyLoadingError)) and _is_refusal(reply):
        error = StoreUnavailableError(
            f"the session store refused to work ({reply}); nothing of this request was stored: try"
            " again",
            retry_after_s=1,
        )
    else:
        error = OutcomeUnknownError(
            case("outcome-unknown", what=f"the session store's answer was lost ({reply})"),
            retry_after_s=1,
        )
    error.is_silent = has_timed_out(reply)
    error.__cause__ = reply
    return error


def unavailable_if_failed(replies: list[Any]) -> list[Any]:
    """The replies to something that is read.

    Raises:
        StoreUnavailableError: one of them is an error.
    """
    for reply in replies:
        if isinstance(reply, (NotSentError, LostError, RedisError)):
            error = StoreUnavailableError(
                f"the session store could not be read ({reply}); nothing of this request was stored:"
                " try again",
                retry_after_s=1,
            )
            error.is_silent = has_timed_out(reply)
            raise error from reply
    return replies


def _is_refusal(reply: Exception) -> bool:
    # redis-py makes kinds of errors of some first words, and takes those words away.
    return type(reply) is not ResponseError or str(reply).partition(" ")[0] in _REFUSALS
