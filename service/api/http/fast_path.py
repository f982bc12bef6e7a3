"""The routes that clients call for every observation, answered without the framework.

`POST /v1/sessions/{session}/steps` and `POST /v2/models/{model}/infer` are documented by FastAPI in
`sessions/routes.py` and `v2/infer.py`; plain requests for them are answered here, by the same
functions, with the same errors. What FastAPI does besides (dependencies, exit stacks, middleware)
costs more than the step itself. `protocol.py` calls `begin` without ASGI in between.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.auth.middleware import RequireKey
from service.api.codec.idempotency import IDEMPOTENCY_KEY
from service.api.context import Context
from service.api.http.access_log import AccessLog
from service.api.http.connection_limits import Connections
from service.api.http.middleware import LimitBody, RequireJson
from service.api.http.whole_bodies import hand_over_whole_body
from service.api.operation import OnOutcome, Operation
from service.api.problems import carry_problem, http_problem
from service.api.request_scope import RequestScope, headers_of, known_by
from service.api.sessions.steps import STEPS_PATH, answer_body, problem_of_step
from service.api.v2.errors import OpenInferenceErrors
from service.engine.timing import on

OnAnswer = Callable[[Response], None]

_ROUTE = SimpleNamespace(path=STEPS_PATH)
"""What `AccessLog` looks for in the scope, where the framework's router leaves its route."""

_STEPS = re.compile(r"/v1/sessions/([A-Za-z0-9._~-]{1,128})/steps")


class FastPath:
    """Answers plain operations itself and hands everything else to `app`."""

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
        self, operation: Operation, headers: Mapping[bytes, bytes], on_answer: OnAnswer
    ) -> "asyncio.Future[Any] | None":
        """Answer an operation through `on_answer`.

        The returned future can be cancelled if the client has left; None: already answered.
        """
        asked = RequestScope(self.context, "POST", operation.path, headers, operation.caller)
        finish = partial(self._finish, asked, operation, on_answer)
        try:
            future = operation.submit(asked.timing, finish)
        except Exception as error:  # the request's boundary
            finish(error)
            return None
        if future is None:
            return asyncio.ensure_future(self._respond(asked, operation, finish))
        return future

    async def _respond(
        self, asked: RequestScope, operation: Operation, on_outcome: OnOutcome
    ) -> None:
        outcome: Response | Exception
        with known_by(asked.request_id, asked.timing, asked.path), on(asked.timing):
            try:
                outcome = await operation.respond()
            except Exception as error:  # the request's boundary
                outcome = error
        on_outcome(outcome)

    def _finish(
        self,
        asked: RequestScope,
        operation: Operation,
        on_answer: OnAnswer,
        outcome: Response | Exception,
    ) -> None:
        if isinstance(outcome, Response):
            response = outcome
        else:
            with known_by(asked.request_id, asked.timing, asked.path):
                response = operation.problem(outcome)
        self._observe.answered(asked, operation.route, response.status_code)
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
            try:
                response = await answer_body(
                    self.context, scope["caller"], scope["session"], parts, key
                )
            except Exception as error:  # the request's boundary, as in FastAPI's own handlers
                response = problem_of_step(error, scope["path"])
        await response(scope, receive, send)


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
