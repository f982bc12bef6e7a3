"""Errors as RFC 9457 problem documents, for every route and for what no route handles.

No answer carries a stack trace or a path of the server: unexpected errors are logged here, once.
"""

import math
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from structlog.contextvars import get_contextvars

from service.api.codec.schemas import Problem
from service.api.codec.validation import invalid_request
from service.api.methods import methods_at
from service.errors import (
    CarryError,
    EncodingRefusedError,
    MalformedError,
    TooLargeError,
    UnauthenticatedError,
    UpgradeRequiredError,
)
from service.wordings import SESSIONS

log = structlog.get_logger()

_EXPLAINED = {
    400: "The body is no JSON",
    401: "No key, or one that is unknown, revoked or expired",
    403: "The key does not allow it",
    404: "No such model, session or path; or the session expired",
    409: "The session is at another step, closed, or opened by another request",
    413: "Body, rows, text or reply beyond the limit",
    415: "A body that is not application/json",
    422: "JSON that does not fit the schema or the model",
    429: "Queue full; Retry-After says when to try again",
    500: "The model failed on this input",
    501: "This server has no key for snapshots",
    503: "Store away, deadline passed or shutting down; Retry-After says when to try again",
}
_OF_FRAMEWORK = {
    404: ("not-found", "Not found"),
    405: ("method-not-allowed", "Method not allowed"),
    413: (TooLargeError.code, TooLargeError.title),
}
_MAX_PATH_CHARS = 300
PROBLEM_MEDIA_TYPE = "application/problem+json"


def error_responses(
    *statuses: int, beside: dict[str, type[BaseModel]] | None = None
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route's OpenAPI entry.

    `beside` are members of its own, which refusals before the route do not have.
    """
    schema: dict[str, Any] = {"$ref": "#/components/schemas/Problem"}
    if beside:
        members = {name: model.model_json_schema() for name, model in beside.items()}
        more = {"type": "object", "properties": members}
        schema = {"allOf": [schema, more]}
    content = {PROBLEM_MEDIA_TYPE: {"schema": schema}}
    return {
        status: {"description": _EXPLAINED[status], "content": content}
        for status in sorted(statuses)
    }


def problem_response(
    code: str,
    title: str,
    status: int,
    detail: str,
    *,
    headers: dict[str, str] | None = None,
    **members: object,
) -> Response:
    """One problem document."""
    problem = {"type": f"urn:carry:{code}", "title": title, "status": status, "detail": detail}
    problem |= members | ids_of_request()
    return Response(orjson.dumps(problem), status, headers, PROBLEM_MEDIA_TYPE)


def ids_of_request() -> dict[str, str]:
    """What the logs call the request by that is being answered."""
    bound = get_contextvars()
    return {name: bound[name] for name in ("request_id", "trace_id") if name in bound}


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error of `app` as a problem document; `AccessLog` answers our own defects."""
    app.add_exception_handler(CarryError, _on_carry_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)


def problem_of(error: Exception, where: str) -> dict[str, Any]:
    """The problem document of any error, for what is no HTTP answer of its own."""
    if not isinstance(error, CarryError):
        code, title, status, detail = _unexpected(error, where)
        return {"type": f"urn:carry:{code}", "title": title, "status": status, "detail": detail}
    log_cause(error)
    problem = {
        "type": f"urn:carry:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
    }
    if error.retry_after_s is not None:
        problem["retry_after_s"] = error.retry_after_s
    return problem | error.members


def carry_problem(error: CarryError) -> Response:
    """The answer to one of our own errors; one with a cause that clients do not see is logged."""
    log_cause(error)
    headers = headers_of_error(error)
    return problem_response(
        error.code, error.title, error.status, error.detail, headers=headers, **error.members
    )


def headers_of_error(error: CarryError) -> dict[str, str]:
    """What the answer to an error says beside its body."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = 'Bearer realm="carry"'
    if isinstance(error, UpgradeRequiredError):
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade"}
    if isinstance(error, EncodingRefusedError):
        headers["Accept-Encoding"] = error.accepted
    return headers


def http_problem(error: HTTPException, method: str) -> Response:
    """The answer to an error of the framework: no such path, wrong method, body too large."""
    code, title = _OF_FRAMEWORK.get(error.status_code, (MalformedError.code, MalformedError.title))
    detail = f"{method} is not answered here: see /docs for the paths and their methods"
    if error.status_code not in (404, 405):
        detail = str(error.detail)
    headers = dict(error.headers or {})
    return problem_response(code, title, error.status_code, detail, headers=headers)


def unexpected_problem(error: Exception, path: str) -> Response:
    """The answer to our own defect, which is logged here."""
    return problem_response(*_unexpected(error, path))


def _unexpected(error: Exception, path: str) -> tuple[str, str, int, str]:
    log.error("unexpected error", path=path[:_MAX_PATH_CHARS], exc_info=error)
    return (
        "internal",
        "Internal error",
        500,
        SESSIONS["internal"],
    )


def log_cause(error: CarryError) -> None:
    """Log what a server error has as its cause, which clients do not see."""
    if error.status >= 500 and error.__cause__ is not None:
        log.error("request failed", code=error.code, exc_info=error)


async def _on_carry_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, CarryError), "registered for CarryError"
    return carry_problem(error)


async def _on_invalid_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for RequestValidationError"
    return carry_problem(invalid_request(error.errors()))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for HTTPException"
    response = http_problem(error, request.method)
    if response.status_code == 405:
        response.headers["Allow"] = ", ".join(methods_at(request.scope))
    return response


def problem_schema() -> dict[str, Any]:
    """The schema that `error_responses` refers to."""
    return Problem.model_json_schema()
