"""Errors under `/v2` in the protocol's own form, from any layer: `{"error": "…", "id": "…"}`.

Rule 1: what fails the schema is 400 there, because the protocol knows no 422.
Rule 2: an error is worded for clients of `/v2` (`wordings.py`), from its case.
Rule 3: it carries the `id` of its request, where one was read (`Asked`). What is refused before its
        body is read (401, 403, 404 of no route, 405, 413, 415) has none.
"""

from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import (
    PROBLEM_MEDIA_TYPE,
    carry_problem,
    headers_of_error,
    log_cause,
    unexpected_problem,
)
from service.api.v2.wordings import SEQUENCES
from service.errors import CarryError

PREFIX = "/v2"
_STATUSES = {422: 400}
_ASKED = "carry.open_inference"


def is_open_inference(path: str) -> bool:
    return path == PREFIX or path.startswith(f"{PREFIX}/")


@dataclass(slots=True)
class Asked:
    """What is known of a request under `/v2` by the time that it fails."""

    id: str | None = None
    sequence: str = "the request"

    @classmethod
    def of(cls, scope: Scope) -> "Asked":
        """That of a request, to be filled in."""
        asked = scope.setdefault(_ASKED, cls())
        assert isinstance(asked, cls), "put there by this very function"
        return asked


def error_json(error: CarryError, asked: Asked) -> dict[str, Any]:
    """The body of an answer, or the data of an event, that is an error."""
    return _described(error.worded(SEQUENCES, sequence=asked.sequence), asked)


def install_open_inference_errors(app: FastAPI) -> None:
    """Answer our own errors under `/v2` in its form, and others as before."""

    async def on_carry_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, CarryError), "registered for CarryError"
        if not is_open_inference(request.scope["path"]):
            return carry_problem(error)
        return error_response(error, request.scope["path"], Asked.of(request.scope))

    app.add_exception_handler(CarryError, on_carry_error)


def error_response(error: Exception, path: str, asked: Asked) -> Response:
    """The answer to an error of a request under `/v2`."""
    if isinstance(error, CarryError):
        log_cause(error)
        status = _STATUSES.get(error.status, error.status)
        return _json(error_json(error, asked), status, headers_of_error(error))
    problem = unexpected_problem(error, path)
    return _json(_described(SEQUENCES["internal"], asked), problem.status_code, {})


def unexpected_response(error: Exception, scope: Scope) -> Response:
    """The answer to our own defect, on any path; it is logged."""
    if is_open_inference(scope["path"]):
        return error_response(error, scope["path"], Asked.of(scope))
    return unexpected_problem(error, scope["path"])


class OpenInferenceErrors:
    """Rewrites problem documents that no route made."""

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


def _described(detail: str, asked: Asked) -> dict[str, Any]:
    return {"error": detail} | ({} if asked.id is None else {"id": asked.id})


def _json(described: dict[str, Any], status: int, headers: dict[str, str]) -> Response:
    return Response(orjson.dumps(described), status, headers, "application/json")
