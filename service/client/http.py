"""Calls as httpx sends them, for threads and for asyncio alike."""

import socket
import ssl
from typing import TypedDict

import httpx

from service.client.exchange import Answer, Call, Lost
from service.client.problems import UnreachableError

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Options(TypedDict):
    base_url: str
    headers: dict[str, str]


def open_options(url: str, key: str | None) -> Options:
    headers = {"Accept": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return {"base_url": url, "headers": headers}


def request_of(http: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
    headers = {"Content-Type": call.content_type, **call.headers}
    timeout = httpx.Timeout(call.timeout_s, read=call.silence_s or call.timeout_s)
    content = call.content or None
    return http.build_request(
        call.method, call.path, content=content, headers=headers, timeout=timeout
    )


def answer_of(response: httpx.Response) -> Answer:
    return Answer(response.status_code, response.headers, response.content)


def lost(error: httpx.TransportError, url: httpx.URL, *, is_first: bool) -> Lost:
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
        ) from error
    was_sent = not isinstance(error, _NOT_SENT)
    return Lost(f"{type(error).__name__}: {error}", was_sent=was_sent)


def _is_refused(error: BaseException) -> bool:
    """Whether it is that nothing listens there, that there is no such host, or no TLS.

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
