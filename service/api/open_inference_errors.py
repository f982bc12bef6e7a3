"""Errors under `/v2` in the protocol's own form, whoever answered them: `{"error": "…"}`.

What fails the schema is 400 there, because the protocol knows no 422.
"""

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import PROBLEM_MEDIA_TYPE

PREFIX = "/v2"
_STATUSES = {422: 400, 405: 404}


def is_open_inference(path: str) -> bool:
    return path == PREFIX or path.startswith(f"{PREFIX}/")


class OpenInferenceErrors:
    """Rewrites problem documents on their way out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_open_inference(scope["path"]):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def rewrite(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                headers = dict(message["headers"])
                if headers.get(b"content-type", b"") == PROBLEM_MEDIA_TYPE.encode():
                    start = message
                    return
            if start is None:
                await send(message)
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                await _send_error(start, body, send)

        await self._app(scope, receive, rewrite)


async def _send_error(start: Message, body: bytes, send: Send) -> None:
    problem = orjson.loads(body)
    data = orjson.dumps({"error": problem["detail"]})
    kept = [
        (name, value)
        for name, value in start["headers"]
        if name not in (b"content-type", b"content-length")
    ]
    headers = [
        *kept,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(data)),
    ]
    status = _STATUSES.get(start["status"], start["status"])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
