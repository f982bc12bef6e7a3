"""Pure ASGI middleware: what every HTTP request passes, whatever its route."""

import re

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.methods import IS_HEAD, announced_bytes, methods_at
from service.api.problems import carry_problem
from service.errors import EncodingRefusedError, TooLargeError, UnsupportedMediaTypeError

_CHARSET = re.compile(rb""";\s*charset\s*=\s*["']?([^\s;"']*)""", re.IGNORECASE)
_CHARSETS = frozenset({b"", b"utf-8", b"utf8", b"us-ascii", b"ascii"})  # ASCII is UTF-8
_OTHER_BODIES = frozenset({("/v1/steps", b"application/vnd.apache.arrow.stream")})


class LimitBody:
    """Refuses bodies over `max_bytes` with 413 and a problem document, announced or not.

    FastAPI has a limit of its own, which answers plain text where the size is announced.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        num_bytes = 0
        if announced_bytes(_header(scope, b"content-length")) > self._max_bytes:
            await carry_problem(self._too_large())(scope, receive, send)
            return

        async def count() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                # FastAPI lets this class alone through its reading of the body.
                raise HTTPException(413, self._too_large().detail)
            return message

        await self._app(scope, count, send)

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"the body is larger than {self._max_bytes} bytes: send it in parts")


class RequireJson:
    """Refuses bodies that do not say that they are JSON, or say an encoding, with 415.

    JSON is UTF-8 (RFC 8259): what says another charset is not read as if it were.

    What no route takes is left to the routes, which answer 404 or 405.
    A few kB of gzip may be gigabytes of JSON; what is under `/v2` unpacks its own, and bounds it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal_of(scope)
            if refusal is not None:
                await carry_problem(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal_of(self, scope: Scope) -> UnsupportedMediaTypeError | None:
        is_v2 = _is_v2(scope)
        encoding = _header(scope, b"content-encoding")
        if encoding.strip().lower() not in (b"", b"identity") and not is_v2:
            return _encoded(encoding)
        said = _header(scope, b"content-type")
        for charset in _CHARSET.findall(said):  # which of several a client means is not known
            if charset.lower() not in _CHARSETS:
                return _not_utf8(charset)
        if scope["method"] == "POST" and not is_v2:
            kind = said.split(b";")[0].strip().lower()
            is_known = kind == b"application/json" or (scope["path"], kind) in _OTHER_BODIES
            is_hot = "app" not in scope  # HotPath's own: it takes nothing but steps
            if not is_known and (is_hot or "POST" in methods_at(scope)):
                return _not_json(said)
        return None


def _is_v2(scope: Scope) -> bool:
    return bool(scope["path"].startswith("/v2/"))


def _header(scope: Scope, name: bytes) -> bytes:
    """The first header of this name, in lower case; empty where there is none."""
    return next((value for key, value in scope["headers"] if key == name), b"")


def _encoded(said: bytes) -> UnsupportedMediaTypeError:
    return EncodingRefusedError(
        f"the body's Content-Encoding is {said.decode('latin-1')}: expected none, a body as it is",
        "identity",
    )


def _not_utf8(charset: bytes) -> UnsupportedMediaTypeError:
    return UnsupportedMediaTypeError(
        f"the body's charset is {charset[:100].decode('latin-1')}: expected utf-8, send UTF-8"
    )


def _not_json(said: bytes) -> UnsupportedMediaTypeError:
    found = said.decode("latin-1") or "none"
    return UnsupportedMediaTypeError(
        f"the body's Content-Type is {found}: expected Content-Type: application/json"
    )


class AnswerHead:
    """Answers HEAD as GET, without the body; a stream of events is not begun (`events/sse.py`).

    The routes see a GET, so that each has HEAD without saying so.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
            elif not message.get("more_body", False):
                await send({"type": "http.response.body", "body": b""})

        as_get = {**scope, "method": "GET", IS_HEAD: True}
        try:
            await self._app(as_get, receive, send_head)
        finally:  # what is noted there of the request is read by those around
            scope.update({**as_get, "method": "HEAD"})


_PAGE_POLICY = (
    b"default-src 'self'; img-src 'self' data:; script-src 'self' 'unsafe-inline';"
    b" style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
)
_OTHER_POLICY = b"default-src 'none'; frame-ancestors 'none'"


class SecureHeaders:
    """Tells browsers to guess nothing, to frame nothing and to load nothing from elsewhere.

    Steps on the fast path have but what the server adds to every answer (`server.py`).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                kind = dict(headers).get(b"content-type", b"")
                policy = _PAGE_POLICY if kind.startswith(b"text/html") else _OTHER_POLICY
                headers += [
                    (b"content-security-policy", policy),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-frame-options", b"DENY"),
                ]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, add)
