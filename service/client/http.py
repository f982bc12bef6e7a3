"""Requests and responses of httpx, for both clients."""

import re
import socket
import ssl
from collections.abc import Iterator
from typing import TypedDict

import httpx

from service.client.problems import ClientError, UnreachableError
from service.client.retry import NoResponse, Request, Response

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_HOST = re.compile(r"[\w.-]+(:\d+)?(/.*)?|\[[\da-fA-F:.]+\](:\d+)?(/.*)?")

_WITHOUT_TLS = (
    "WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_EOF",
)  # fmt: skip
"""What OpenSSL's versions report for bytes that are not TLS."""


class Options(TypedDict):
    base_url: str
    headers: dict[str, str]


def require_address(url: str) -> None:
    """
    Raises:
        ClientError: the URL is not the address of a service.
    """
    try:
        parsed = httpx.URL(url)
        if parsed.scheme in ("http", "https") and parsed.host:
            return
    except httpx.InvalidURL:
        pass
    remedy = f"give http://{url} or https://{url}" if _HOST.fullmatch(url) else "correct it"
    raise ClientError(
        "expected the address of a service, http://HOST:PORT or https://HOST:PORT, found"
        f" {url!r:.200}: {remedy}"
    )


def open_options(url: str, key: str | None) -> Options:
    require_address(url)
    headers = {"Accept": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return {"base_url": url, "headers": headers}


def to_httpx(http: httpx.Client | httpx.AsyncClient, request: Request) -> httpx.Request:
    headers = {"Content-Type": request.content_type, **request.headers}
    timeout = httpx.Timeout(request.timeout_s, read=request.silence_s or request.timeout_s)
    content = request.content or None
    return http.build_request(
        request.method, request.path, content=content, headers=headers, timeout=timeout
    )


def response_of(response: httpx.Response) -> Response:
    return Response(response.status_code, response.headers, response.content)


def failure_of(error: httpx.TransportError, url: httpx.URL, *, is_first: bool) -> NoResponse:
    """Why there is no response. `is_first`: this client has not had any from `url` yet.

    Raises:
        httpx.UnsupportedProtocol: the address is invalid; a retry would not help.
        UnreachableError: the first connection was refused.
    """
    if isinstance(error, httpx.UnsupportedProtocol):
        raise error
    if is_first and isinstance(error, httpx.ConnectError) and _is_refused(error):
        raise UnreachableError(
            f"no service found at {url} ({error}): expected Carry to run there; start it, with"
            " `make serve` for example, or give the client the address of a running one"
            f"{_hint_of_scheme(error, url)}"
        ) from error
    was_sent = not isinstance(error, _NOT_SENT)
    return NoResponse(f"{type(error).__name__}: {error}", was_sent=was_sent)


def _hint_of_scheme(error: httpx.ConnectError, url: httpx.URL) -> str:
    """A hint for a server that answers the TLS handshake with something else."""
    if url.scheme != "https" or not _is_without_tls(error):
        return ""
    plain = str(url.copy_with(scheme="http")).rstrip("/")
    return f"; if it serves HTTP without TLS, the address is {plain}"


def _is_without_tls(error: BaseException) -> bool:
    reasons = [str(each).upper().replace(" ", "_") for each in _chain(error)]
    return any(known in reason for known in _WITHOUT_TLS for reason in reasons)


def _is_refused(error: BaseException) -> bool:
    """Whether the port is closed, the host is unknown, or TLS failed."""
    return any(
        isinstance(each, ConnectionRefusedError | socket.gaierror | ssl.SSLError)
        or "connection refused" in str(each).lower()  # of a transport that keeps no causes
        for each in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes.

    httpx wraps the system's error once per layer, and groups those of several addresses of a host.
    """
    yield error
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for cause in (*parts, error.__cause__ or error.__context__):
        if cause is not None:
            yield from _chain(cause)
