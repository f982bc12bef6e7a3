"""The one route that is called for every observation, without the framework around it.

`POST /v1/sessions/{session}/steps` is documented by FastAPI in `sessions/routes.py`; requests for
it are answered here, by the same function, with the same errors. What is left out is what FastAPI
does for each request that this route does not need (dependencies, exit stacks, telemetry hooks): it
costs more than the step itself. `protocol.py` calls `begin` without ASGI in between.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Literal

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.auth.keys import Caller
from service.api.auth.middleware import RequireKey
from service.api.body_reader.reader import BIG_BODY_BYTES
from service.api.codec.idempotency import IDEMPOTENCY_KEY
from service.api.codec.schemas import StepBody
from service.api.codec.validation import is_crowded, parse_body
from service.api.context import Context
from service.api.http.access_log import AccessLog
from service.api.http.connection_limits import Connections
from service.api.http.middleware import LimitBody, RequireJson
from service.api.http.whole_bodies import hand_over_whole_body
from service.api.problems import carry_problem, http_problem, unexpected_problem
from service.api.request_scope import RequestScope, headers_of, known_by
from service.api.sessions.steps import (
    STEPS_PATH,
    BigBody,
    answer_step,
    step_response,
    submit_cached,
)
from service.api.v2.errors import OpenInferenceErrors
from service.engine.session.rules import Reply
from service.engine.timing import on
from service.errors import CarryError

OnAnswer = Callable[[Response], None]

_ROUTE = SimpleNamespace(path=STEPS_PATH)
"""What `AccessLog` looks for in the scope, where the framework's router leaves its route."""

_STEPS = re.compile(r"/v1/sessions/([A-Za-z0-9._~-]{1,128})/steps")


class FastPath:
    """Answers steps itself and hands everything else to `app`."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self.app = app
        self.context = context
        settings = context.settings
        self.connections = Connections(settings.max_connections, settings.read_timeout_s)
        self._knows_origins = bool(settings.cors_origins)
        limited = LimitBody(self._answer_asgi, settings.max_body_bytes)
        guarded = RequireKey(RequireJson(limited), context.keys, context.rates)
        self._observe = AccessLog(guarded, context)
        self._refuse_head = AccessLog(OpenInferenceErrors(_answer_fault), context)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "fault" in scope:  # of its head, see `heads.py`
            await self._refuse_head(scope, receive, send)
            return
        receive = hand_over_whole_body(receive)
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        match = _STEPS.fullmatch(scope["path"]) if is_post else None
        if match is None or (self._knows_origins and _has_origin(scope)):
            await self.app(scope, receive, send)
            return
        scope["session"], scope["route"] = match[1], _ROUTE
        await self._observe(scope, receive, send)

    def begin(
        self,
        caller: Caller,
        session: str,
        data: bytes,
        headers: Mapping[bytes, bytes],
        on_answer: OnAnswer,
    ) -> "asyncio.Future[Any] | None":
        """Answer a step whose body has come in whole, through `on_answer`.

        What it returns may be cancelled, if nobody waits for the answer any more; None: answered.
        """
        path = f"/v1/sessions/{session}/steps"
        asked = RequestScope(self.context, "POST", path, headers, caller)

        def answer(emit: Literal["last", "all"], outcome: Reply | CarryError) -> None:
            response: Response | Exception
            if isinstance(outcome, CarryError):
                response = outcome
            else:
                try:
                    response = step_response(self.context, outcome, emit)
                except Exception as error:  # the request's boundary
                    response = error
            self._finish(asked, response, on_answer)

        try:
            future = submit_cached(self.context, caller, session, data, asked.timing, answer)
        except Exception as error:  # the request's boundary
            self._finish(asked, error, on_answer)
            return None
        if future is None:
            slowly = self._answer_slowly(asked, caller, session, data, on_answer)
            return asyncio.ensure_future(slowly)
        return future

    async def _answer_slowly(
        self, asked: RequestScope, caller: Caller, session: str, data: bytes, on_answer: OnAnswer
    ) -> None:
        """The whole way: the model is asked of the store, the body may be big or wrong."""
        with known_by(asked.request_id, asked.timing, asked.path), on(asked.timing):
            response = await self._respond(caller, session, [data])
        self._finish(asked, response, on_answer)

    def _finish(
        self, asked: RequestScope, outcome: Response | Exception, on_answer: OnAnswer
    ) -> None:
        if isinstance(outcome, Response):
            response = outcome
        else:
            with known_by(asked.request_id, asked.timing, asked.path):
                response = _problem(outcome, asked.path)
        self._observe.answered(asked, STEPS_PATH, response.status_code)
        response.raw_headers += headers_of(asked.request_id, asked.timing)
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
            is_big = sum(map(len, parts)) > BIG_BODY_BYTES or is_crowded(b"".join(parts))
            body = BigBody(StepBody, parts) if is_big else parse_body(StepBody, b"".join(parts))
            return await answer_step(self.context, caller, session, body, key)
        except Exception as error:  # the request's boundary, as in FastAPI's own handlers
            return _problem(error, f"/v1/sessions/{session}/steps")


def _problem(error: Exception, path: str) -> Response:
    if isinstance(error, CarryError):
        return carry_problem(error)
    return unexpected_problem(error, path)


async def _answer_fault(scope: Scope, receive: Receive, send: Send) -> None:
    await carry_problem(scope["fault"])(scope, receive, send)


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
