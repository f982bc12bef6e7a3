"""The parts of WebSockets that both clients share: address, options, failures."""

from typing import Any, NamedTuple

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from service.client.retry import NoResponse, Response

BREAKS = (OSError, EOFError, ConnectionClosed, InvalidHandshake)  # OSError includes TimeoutError
_CLOSE_S = 1.0


class Address(NamedTuple):
    """The WebSocket address of a service, `ws://…` or `wss://…`, and the API key."""

    url: str
    key: str | None

    @classmethod
    def of(cls, url: str, key: str | None) -> "Address":
        """The address that belongs to `http://…` or `https://…`."""
        scheme, _, rest = url.partition("://")
        return cls(f"{'wss' if scheme.lower() == 'https' else 'ws'}://{rest.rstrip('/')}", key)

    def options(self, timeout_s: float) -> dict[str, Any]:
        """Options of one connection. Messages have no limit: the service limits its replies."""
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        return {
            "additional_headers": headers,
            "subprotocols": [Subprotocol("carry.v1")],
            "compression": None,
            "open_timeout": timeout_s,
            "close_timeout": _CLOSE_S,
            "max_size": None,
            "max_queue": None,
        }


def response_of(error: InvalidStatus) -> Response:
    """The HTTP response to a handshake that was refused."""
    response = error.response
    headers = {name.lower(): value for name, value in response.headers.raw_items()}
    return Response(response.status_code, headers, bytes(response.body or b""))


def failure_of(error: BaseException) -> NoResponse:
    code = None
    if isinstance(error, ConnectionClosed) and error.rcvd is not None:
        code = error.rcvd.code
    return NoResponse(f"{type(error).__name__}: {error}", code)
