"""Calls as httpx sends them, for threads and for asyncio alike."""

from typing import TypedDict

import httpx

from service.client.exchange import Answer, Call, Lost


class Options(TypedDict):
    base_url: str
    headers: dict[str, str]


def open_options(url: str, key: str | None) -> Options:
    headers = {"Accept": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return {"base_url": url, "headers": headers}


def request_of(http: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
    headers = {"Content-Type": call.content_type}
    content = call.content or None
    return http.build_request(
        call.method, call.path, content=content, headers=headers, timeout=call.timeout_s
    )


def answer_of(response: httpx.Response) -> Answer:
    return Answer(response.status_code, response.headers, response.content)


def lost(error: httpx.TransportError) -> Lost:
    """What httpx says of an answer that did not come.

    Raises:
        httpx.UnsupportedProtocol: the address is none; no later try would help.
    """
    if isinstance(error, httpx.UnsupportedProtocol):
        raise error
    return Lost(f"{type(error).__name__}: {error}")
