"""Calls as httpx sends them, for threads and for asyncio alike."""

import re
import socket
import ssl
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
"""Reasons that OpenSSL's versions give for bytes that are not TLS."""


class Options(TypedDict):
    base_url: str
    headers: dict[str, str]


def require_address(url: str) -> None:
    """
    Raises:
        ClientError: it is not the address of a service.
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


def request_of(http: httpx.Client | httpx.AsyncClient, call: Request) -> httpx.Request:
    headers = {"Content-Type": call.content_type, **call.headers}
    timeout = httpx.Timeout(call.timeout_s, read=call.silence_s or call.timeout_s)
    content = call.content or None
    return http.build_request(
        call.method, call.path, content=content, headers=headers, timeout=timeout
    )


def answer_of(response: httpx.Response) -> Response:
    return Response(response.status_code, response.headers, response.content)


def lost(error: httpx.TransportError, url: httpx.URL, *, is_first: bool) -> NoResponse:
    """What httpx says of an answer that did not come. `is_first`: none ever came from this `url`.

    Raises:
        httpx.UnsupportedProtocol: the address is none; no later try would help.
        UnreachableError: nothing is there, and it is not known that anything ever was.
    """
    if isinstance(error, httpx.UnsupportedProtocol):
        raise error
    if is_first and isinstance(error, httpx.ConnectError) and _is_refused(error):
        raise UnreachableError(
            f"no service was found at {url} ({error}): expected Carry to run there; start it, by"
            " `make serve` for example, or give the client the address of one that runs"
            f"{_hint_of_scheme(error, url)}"
        ) from error
    was_sent = not isinstance(error, _NOT_SENT)
    return NoResponse(f"{type(error).__name__}: {error}", was_sent=was_sent)


def _hint_of_scheme(error: httpx.ConnectError, url: httpx.URL) -> str:
    """What else may be wrong where something answers the TLS handshake, but not with TLS."""
    if url.scheme != "https" or not _is_without_tls(error):
        return ""
    plain = str(url.copy_with(scheme="http")).rstrip("/")
    return f"; if it serves HTTP without TLS, the address is {plain}"


def _is_without_tls(error: BaseException) -> bool:
    told = str(error).upper().replace(" ", "_")
    if any(reason in told for reason in _WITHOUT_TLS):
        return True
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    causes = [*parts, error.__cause__ or error.__context__]
    return any(_is_without_tls(cause) for cause in causes if cause is not None)


def _is_refused(error: BaseException) -> bool:
    """Whether nothing listens there, the host is unknown, or it does not speak TLS.

    httpx keeps what the system said as the cause, below an error of its own for each layer; with
    several addresses of a host, a group of them.
    """
    if isinstance(error, ConnectionRefusedError | socket.gaierror | ssl.SSLError):
        return True
    if "connection refused" in str(error).lower():  # of a transport that keeps no causes
        return True
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    causes = [*parts, error.__cause__ or error.__context__]
    return any(_is_refused(cause) for cause in causes if cause is not None)
