"""Who may open a stream: the page that asks, its key, the session, and how many there are."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from websockets.datastructures import Headers

from service.api.auth.keys import Caller
from service.api.codec.idempotency import IDEMPOTENCY_KEY, refuse_key
from service.api.context import Context
from service.errors import (
    DrainingError,
    OriginRefusedError,
    TooManyStreamsError,
    UnauthenticatedError,
)
from service.stores.record.record import Record

SUBPROTOCOL = "carry.v1"
"""Chosen where a client offers it; clients that offer none are served alike."""

_KEY_SUBPROTOCOL = "carry.key."
"""Before a key, as a second subprotocol: the one place where a page in a browser can put it."""


async def admit(
    context: Context, headers: Headers, session: str | None
) -> tuple[Caller, Record | None]:
    """Who asks, and the session that is asked for, if this client may have a stream of it.

    The stream that is asked for counts as open already.

    Raises:
        CarryError: the page, the key, the session, or the number of streams.
    """
    _require_same_origin(headers)
    refuse_key("a stream", is_given=IDEMPOTENCY_KEY in headers)
    caller = context.keys.find(authorization_of(headers))
    if caller is None:
        raise UnauthenticatedError(
            "this needs a key that is known here, neither revoked nor expired: send it as"
            f" 'Authorization: Bearer KEY', or offer the subprotocols {SUBPROTOCOL} and"
            f" {_KEY_SUBPROTOCOL}KEY"
        )
    if context.engine.is_draining:
        raise DrainingError("this server is shutting down: connect again", retry_after_s=1)
    require_room(context)
    if caller.limits:
        await context.rates.count(caller)  # once; what comes over the stream is not counted
    if session is None:
        return caller, None
    return caller, await context.engine.read(context.key(caller, session))


def require_room(context: Context, num_more: int = 0) -> None:
    """Raise TooManyStreamsError if more streams are open than may be."""
    if len(context.open_streams) + num_more > context.settings.max_streams:
        raise TooManyStreamsError(
            f"{context.settings.max_streams} streams are open, as many as one process may have:"
            " step over HTTP, or try again",
            retry_after_s=5,
        )


def offered(headers: Headers) -> list[str]:
    """The subprotocols that a client offers."""
    values = headers.get_all("Sec-WebSocket-Protocol")
    return [token.strip() for value in values for token in value.split(",")]


def authorization_of(headers: Headers) -> bytes | None:
    """The value of the one Authorization header, or what a browser says in its place."""
    said = headers.get_all("Authorization")
    if not said:
        start = len(_KEY_SUBPROTOCOL)
        keys = [each[start:] for each in offered(headers) if each.startswith(_KEY_SUBPROTOCOL)]
        said = [f"Bearer {key}" for key in keys]
    return said[0].encode("latin-1", "replace") if len(said) == 1 else None


def _require_same_origin(headers: Mapping[str, str]) -> None:
    """Browsers let any page open a WebSocket to any host: only pages of this one are served."""
    origin = headers.get("Origin")
    if origin is not None and _host_of(origin) != headers.get("Host", ""):
        raise OriginRefusedError(
            f"a page of {origin[:200]} may not open a stream of this server: expected a page that"
            " this server itself served, or a client that is not a browser"
        )


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc or None
    except ValueError:  # no address at all
        return None
