"""The one route that is called for every observation, without the framework around it.

`POST /v1/sessions/{session}/steps` is documented by FastAPI in `sessions.py`; requests for it are
answered here, by the same function, with the same errors. What is left out is what FastAPI does for
each request that this route does not need (dependencies, exit stacks, telemetry hooks): it costs
more than the step itself.
"""

import json
import re
import time

import structlog
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.context import Context
from service.api.middleware import LimitBody, RequireJson
from service.api.problems import carry_problem, http_problem, invalid_problem, unexpected_problem
from service.api.schemas import StepBody
from service.api.sessions import STEPS_PATH, answer_step
from service.errors import CarryError

log = structlog.get_logger()

_STEPS = re.compile(r"/v1/sessions/([A-Za-z0-9._~-]{1,128})/steps")


class HotPath:
    """Answers steps itself and hands everything else to `app`."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self.app = app
        self.context = context
        limited = LimitBody(self._answer_step, context.settings.max_body_bytes)
        self._answer = RequireJson(limited)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        match = _STEPS.fullmatch(scope["path"]) if is_post else None
        if match is None:
            await self.app(scope, receive, send)
            return
        scope["session"] = match[1]
        await self._answer(scope, receive, send)

    async def _answer_step(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        response = await self._respond(scope, receive)
        if response is None:
            return
        await response(scope, receive, send)
        status, seconds = response.status_code, time.perf_counter() - started
        log.debug("request", method="POST", path=scope["path"], status=status, seconds=seconds)
        self.context.metrics.request_answered("POST", STEPS_PATH, status, seconds)

    async def _respond(self, scope: Scope, receive: Receive) -> Response | None:
        """The answer; None where the client left before it had asked."""
        try:
            data = await _read_body(receive)
            if data is None:
                return None
            return await answer_step(self.context, scope["session"], _parse(data))
        except CarryError as error:
            return carry_problem(error)
        except ValidationError as error:
            return invalid_problem(error.errors(include_url=False), "body")
        except HTTPException as error:
            return http_problem(error, "POST")
        except Exception as error:  # the request's boundary, as in FastAPI's own handlers
            return unexpected_problem(error, scope["path"])


def _parse(data: bytes) -> StepBody:
    try:
        return StepBody.model_validate_json(data)
    except ValidationError as error:
        if error.errors(include_url=False)[0]["type"] != "json_invalid":
            raise
        # pydantic-core calls half of a surrogate pair no JSON; Python reads it, so that the schema
        # can say what is wrong, as it does on every other route.
        try:
            parsed = json.loads(data)
        except (ValueError, RecursionError):
            raise error from None
        return StepBody.model_validate(parsed)


async def _read_body(receive: Receive) -> bytes | None:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return bytes(message.get("body", b""))
    parts = []
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
    return None
