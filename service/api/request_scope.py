"""One request: its id, its timing, and what the logs call it.

Rule 1: every answer has an X-Request-ID, on every way: what the client sent, or a new one.
Rule 2: only what fits into one log line, one header and one exemplar is taken from a client; of
        anything else nothing is kept. It proves nothing: two clients may send the same.
Rule 3: the id and the names in the path are bound to the logs of the request, where any are
        written. A step that succeeds writes none, and does not pay for it.
Rule 4: the timing begins with the scope, and is read when the request is over.
"""

import os
import re
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from starlette.responses import Response
from structlog.contextvars import bound_contextvars

from service.api.auth.keys import Caller
from service.api.context import Context
from service.api.problems import carry_problem
from service.engine.timing import RequestTiming, rounded
from service.errors import CarryError

REQUEST_ID = b"x-request-id"
TRACE_RESPONSE = b"traceresponse"
MAX_ID_CHARS = 100
"""With its name it fits into an exemplar, which has room for 128."""

_FIT = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,%d}" % MAX_ID_CHARS)
_NAMED = re.compile(r"/v[12]/(session|model)s/([A-Za-z0-9._~-]{1,128})(?![^/])")


class RequestScope:
    """A request, as far as it is known before it is answered."""

    __slots__ = ("began_s", "caller", "is_endless", "method", "path", "request_id", "timing")

    def __init__(
        self,
        context: Context,
        method: str,
        path: str,
        headers: Mapping[bytes, bytes],
        caller: Caller | None = None,
        *,
        is_timed: bool = True,
    ) -> None:
        self.method = method
        self.path = path
        self.caller = caller
        self.request_id = request_id_of(headers.get(REQUEST_ID))
        self.timing = begin_timing(context, headers) if is_timed else None
        self.began_s = time.perf_counter() if self.timing is None else self.timing.began_s
        self.is_endless = False  # answered by a stream of events


def begin_timing(
    context: Context, headers: Mapping[bytes, bytes], *, is_linked: bool = False
) -> RequestTiming | None:
    """The timing of a request that begins now; None where nobody would read it.

    `is_linked`: it is one of many that came under these headers.
    """
    if context.tracing is not None:
        return context.tracing.begin(headers, is_linked=is_linked)
    return RequestTiming() if context.settings.slow_request_s else None


def where_time_went(timing: RequestTiming, ended_s: float) -> dict[str, Any]:
    """The fields of a log line: the model, and how long each part took."""
    if timing.model is None:
        return {}
    said = {
        "model": timing.model.name,
        "version": timing.model.version,
        "batches": timing.num_batches,
    }
    return said | rounded(timing.spent(ended_s))


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
