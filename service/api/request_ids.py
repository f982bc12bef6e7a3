"""X-Request-ID: what a client, the logs and the problem document call one request by.

Rule 1: every answer has one, on every way: what the client sent, or one that is made here.
Rule 2: only what fits into one log line, one header and one exemplar is taken from a client; of
        anything else nothing is kept. It proves nothing: two clients may send the same.
Rule 3: it and the names of what is asked for are bound to the logs of the request, where any are
        written. A step that goes well writes none, and does not pay for it.
"""

import os
import re
from contextlib import AbstractContextManager
from typing import Any

from starlette.responses import Response
from structlog.contextvars import bound_contextvars

from service.api.problems import carry_problem
from service.engine.timing import RequestTiming
from service.errors import CarryError

REQUEST_ID = b"x-request-id"
TRACE_RESPONSE = b"traceresponse"
MAX_ID_CHARS = 100
"""With its name it fits into an exemplar, which has room for 128."""

_FIT = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,%d}" % MAX_ID_CHARS)
_NAMED = re.compile(r"/v[12]/(session|model)s/([A-Za-z0-9._~-]{1,128})(?![^/])")


def request_id_of(said: bytes | None) -> str:
    """The id of a request whose header says this; 32 random hex digits where it does not fit."""
    if said is not None and _FIT.fullmatch(said):
        return said.decode()
    return os.urandom(16).hex()


def named_in(path: str) -> dict[str, str]:
    """The session or model that a path is of."""
    named = _NAMED.match(path)
    return {named[1]: named[2]} if named else {}


def known_by(
    request_id: str, timing: RequestTiming | None = None, path: str = "", **names: str
) -> AbstractContextManager[None]:
    """While it lasts, logs and problems name the request, its trace, and what its path names."""
    names |= named_in(path)
    if timing is not None and timing.trace_id is not None:
        names["trace_id"] = timing.trace_id
    return bound_contextvars(request_id=request_id, **names)


def headers_of(request_id: str, timing: RequestTiming | None = None) -> list[tuple[bytes, bytes]]:
    """What an answer says of itself: its id, and the span that it came from."""
    headers = [(REQUEST_ID, request_id.encode())]
    if timing is not None and timing.traceparent is not None:
        headers.append((TRACE_RESPONSE, timing.traceparent.encode()))
    return headers


def document_ids(document: dict[str, Any]) -> None:
    """Say in an OpenAPI document that every answer has an id."""
    document["components"]["headers"] = {
        "X-Request-ID": {
            "description": "That of the request, where it sent one of at most 100 characters out of"
            " `A-Z a-z 0-9 . _ ~ : / + = @ -`; else one that is made. Logs and problems name it.",
            "schema": {"type": "string", "maxLength": MAX_ID_CHARS},
        }
    }
    ours = {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}}
    for operations in document["paths"].values():
        for operation in operations.values():
            for answer in operation["responses"].values():
                answer["headers"] = answer.get("headers", {}) | ours


def early_problem(error: CarryError) -> Response:
    """The answer to a request that is refused before it is known which one it is."""
    request_id = request_id_of(None)
    with known_by(request_id):
        response = carry_problem(error)
    response.raw_headers += headers_of(request_id)
    return response
