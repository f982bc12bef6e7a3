"""The one route that is called for every observation, without the framework around it.

`POST /v1/sessions/{session}/steps` is documented by FastAPI in `sessions.py`; requests for it are
answered here, by the same function, with the same errors. What is left out is what FastAPI does for
each request that this route does not need (dependencies, exit stacks, telemetry hooks): it costs
more than the step itself. `protocol.py` calls `begin` without ASGI in between.
"""

import asyncio
import re
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.auth import RequireKey
from service.api.body_reader import BIG_BODY_BYTES
from service.api.connections import Connections
from service.api.context import Context
from service.api.idempotency import IDEMPOTENCY_KEY
from service.api.keys import Caller
from service.api.middleware import LimitBody, Observe, RequireJson
from service.api.parse import parse_body
from service.api.problems import carry_problem, http_problem, unexpected_problem
from service.api.schemas import StepBody
from service.api.steps import (
    STEPS_PATH,
    BigBody,
    answer_step,
    step_response,
    submit_cached,
)
from service.engine.session import Reply
from service.errors import CarryError

OnAnswer = Callable[[Response], None]

_ROUTE = SimpleNamespace(path=STEPS_PATH)
"""What `Observe` looks for in the scope, where the framework's router leaves its route."""

_STEPS = re.compile(r"/v1/sessions/([A-Za-z0-9._~-]{1,128})/steps")


class HotPath:
    """Answers steps itself and hands everything else to `app`."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self.app = app
        self.context = context
        settings = context.settings
        self.connections = Connections(settings.max_connections, settings.read_timeout_s)
        self._knows_origins = bool(settings.cors_origins)
        limited = LimitBody(self._answer_asgi, settings.max_body_bytes)
        guarded = RequireKey(RequireJson(limited), context.keys, context.rates)
        self._observe = Observe(guarded, context.metrics.request_answered)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        match = _STEPS.fullmatch(scope["path"]) if is_post else None
        if match is None or (self._knows_origins and _has_origin(scope)):
            await self.app(scope, receive, send)
            return
        scope["session"], scope["route"] = match[1], _ROUTE
        await self._observe(scope, receive, send)

    def begin(
        self, caller: Caller, session: str, data: bytes, on_answer: OnAnswer
    ) -> "asyncio.Future[Any] | None":
        """Answer a step whose body has come in whole, through `on_answer`.

        What it returns may be cancelled, if nobody waits for the answer any more; None: answered.
        """
        started = time.perf_counter()
        try:
            submitted = submit_cached(self.context, caller, session, data)
        except Exception as error:  # the request's boundary
            self._finish(session, _problem(error, session), on_answer, started)
            return None
        if submitted is None:
            slowly = self._answer_slowly(caller, session, data, on_answer, started)
            return asyncio.ensure_future(slowly)
        emit, future = submitted

        def answer(future: "asyncio.Future[Reply]") -> None:
            if future.cancelled():
                return
            try:
                response = step_response(self.context, future.result(), emit)
            except Exception as error:  # the request's boundary
                response = _problem(error, session)
            self._finish(session, response, on_answer, started)

        future.add_done_callback(answer)
        return future

    async def _answer_slowly(
        self, caller: Caller, session: str, data: bytes, on_answer: OnAnswer, started: float
    ) -> None:
        """The whole way: the model is asked of the store, the body may be big or wrong."""
        response = await self._respond(caller, session, [data])
        self._finish(session, response, on_answer, started)

    def _finish(
        self, session: str, response: Response, on_answer: OnAnswer, started: float
    ) -> None:
        seconds = time.perf_counter() - started
        path = f"/v1/sessions/{session}/steps"
        self._observe.answered("POST", path, STEPS_PATH, response.status_code, seconds)
        on_answer(response)

    async def _answer_asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            parts = await _read_body(receive)
        except HTTPException as error:
            response = http_problem(error, "POST")
        else:
            if parts is None:  # the client left before it had asked
                return
            key = Headers(scope=scope).get(IDEMPOTENCY_KEY)
            response = await self._respond(scope["caller"], scope["session"], parts, key)
        await response(scope, receive, send)

    async def _respond(
        self, caller: Caller, session: str, parts: list[bytes], key: str | None = None
    ) -> Response:
        try:
            is_big = sum(map(len, parts)) > BIG_BODY_BYTES
            body = BigBody(StepBody, parts) if is_big else parse_body(StepBody, b"".join(parts))
            return await answer_step(self.context, caller, session, body, key)
        except Exception as error:  # the request's boundary, as in FastAPI's own handlers
            return _problem(error, session)


def _problem(error: Exception, session: str) -> Response:
    if isinstance(error, CarryError):
        return carry_problem(error)
    return unexpected_problem(error, f"/v1/sessions/{session}/steps")


def _has_origin(scope: Scope) -> bool:
    """A page asks: what it may see is the framework's middleware to say."""
    return any(name == b"origin" for name, _ in scope["headers"])


async def _read_body(receive: Receive) -> list[bytes] | None:
    """The whole body, in parts; None where the client left in the middle of it."""
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return parts
    return None
