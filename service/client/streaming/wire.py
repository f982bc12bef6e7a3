"""What threads and asyncio share of WebSockets: the address, the options, what can go wrong."""

from typing import Any, NamedTuple

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from service.client.retry import NoResponse, Response

BREAKS = (OSError, EOFError, ConnectionClosed, InvalidHandshake)  # OSError: TimeoutError as well
_CLOSE_S = 1.0


class Address(NamedTuple):
    """Where the streams of a service are, `ws://…` or `wss://…`, and the key they need."""

    url: str
    key: str | None

    @classmethod
    def of(cls, url: str, key: str | None) -> "Address":
        """That of a service at `http://…` or `https://…`."""
        scheme, _, rest = url.partition("://")
        return cls(f"{'wss' if scheme.lower() == 'https' else 'ws'}://{rest.rstrip('/')}", key)

    def options(self, timeout_s: float) -> dict[str, Any]:
        """Of one connection. Messages are not bounded: the service bounds its replies."""
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


def refused(error: InvalidStatus) -> Response:
    """What HTTP answered in place of a stream."""
    response = error.response
    headers = {name.lower(): value for name, value in response.headers.raw_items()}
    return Response(response.status_code, headers, bytes(response.body or b""))


def broken(error: BaseException) -> NoResponse:
    code = None
    if isinstance(error, ConnectionClosed) and error.rcvd is not None:
        code = error.rcvd.code
    return NoResponse(f"{type(error).__name__}: {error}", code)
