"""What every HTTP request passes first: its id, its time, its log line, and our own defects."""

import math
import time
from typing import Any

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.auth.keys import Caller
from service.api.context import Context
from service.api.methods import route_of
from service.api.request_scope import (
    RequestScope,
    headers_of,
    known_by,
    named_in,
    where_time_went,
)
from service.api.v2.errors import unexpected_response
from service.engine.timing import RequestTiming, on

log = structlog.get_logger()

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_UNTRACED = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""What is asked every few seconds, by probes and Prometheus."""


class AccessLog:
    """Times every request, answers our own defects, and logs what took long or failed."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app = app
        self._context = context
        self._logs_all = context.settings.log_level == "debug"
        self._slow_s = context.settings.slow_request_s or math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, path, headers = 0, scope["path"], dict(scope["headers"])
        is_timed = path not in _UNTRACED
        asked = RequestScope(self._context, scope["method"], path, headers, is_timed=is_timed)
        request_id, timing = asked.request_id, asked.timing
        added = headers_of(request_id, timing)

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status, told = message["status"], message.get("headers", ())
                asked.is_endless = _EVENTS in told
                message = {**message, "headers": [*told, *added]}
            await send(message)

        with known_by(request_id, timing, path), on(timing):
            try:
                await self._app(scope, receive, watch)
            except ClientDisconnect:  # in the middle of its body: nobody is there to be answered
                if status:
                    raise
            except Exception as error:  # the request's boundary: it would cut the connection
                if status:
                    raise
                await unexpected_response(error, scope)(scope, receive, watch)
            if not status:  # the client left before it had asked
                return
            asked.caller = scope.get("caller")
            self.answered(asked, route_of(scope), status)

    def answered(self, asked: RequestScope, route: str, status: int) -> None:
        """Count an answer; tell its trace and the log of it, where there is reason to."""
        seconds = time.perf_counter() - asked.began_s
        method = asked.method if asked.method in _METHODS else "other"
        is_slow = seconds > self._slow_s and not asked.is_endless
        # Probes ask every few seconds, and "not ready" is not a failure.
        is_worth_a_line = is_slow or (status >= 500 and route != "/readyz")
        exemplar = None
        if asked.timing is not None and asked.timing.is_sampled:
            exemplar = {"trace_id": str(asked.timing.trace_id)}
            _end_trace(asked, asked.timing, method, route, status, seconds)
        elif is_worth_a_line:
            exemplar = {"request_id": asked.request_id}
        timed_s = None if asked.is_endless else seconds
        self._context.metrics.request_answered(method, route, status, timed_s, exemplar)
        if is_worth_a_line or self._logs_all:
            with known_by(asked.request_id, asked.timing, asked.path):
                said = self._said_of(asked, route, status, seconds)
                if is_worth_a_line:
                    log.warning("slow or failed request", method=method, **said)
                else:
                    log.debug("request", method=method, **said)

    def _said_of(
        self, asked: RequestScope, route: str, status: int, seconds: float
    ) -> dict[str, Any]:
        """Not the path: a client may have put a key into it by mistake."""
        said: dict[str, Any] = {"route": route, "status": status, "seconds": round(seconds, 6)}
        caller, session = asked.caller, named_in(asked.path).get("session")
        if caller is not None:
            said["tenant"] = caller.tenant
            if session is not None:
                said |= self._model_of(caller, session)
        if asked.timing is not None:
            said |= where_time_went(asked.timing, asked.began_s + seconds)
        return said

    def _model_of(self, caller: Caller, session: str) -> dict[str, str]:
        """The model of a session, where it is known in this process."""
        model = self._context.engine.cached_model(self._context.key(caller, session))
        return {} if model is None else {"model": model.name, "version": model.version}


def _end_trace(
    asked: RequestScope, timing: RequestTiming, method: str, route: str, status: int, seconds: float
) -> None:
    said: dict[str, str | int] = {
        "http.request.method": method if method in _METHODS else "_OTHER",
        "http.route": route,
        "http.response.status_code": status,
        "carry.request_id": asked.request_id,
    }
    session = named_in(asked.path).get("session")
    if session is not None:
        said["carry.session"] = session
    timing.end(f"{method} {route}", timing.began_s + seconds, said, has_failed=status >= 500)
