"""Routes whose big bodies do not pass through the framework, which would parse them on the loop.

Nor are they put together there: they go as they came, in parts, to the process that reads them.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute

from service.api.auth.middleware import get_caller
from service.api.body_reader.reader import BIG_BODY_BYTES
from service.api.codec.idempotency import IDEMPOTENCY_KEY
from service.api.codec.validation import is_crowded
from service.api.context import get_context
from service.api.methods import announced_bytes

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Awaitable[Response]])


def answers_big_bodies(
    answer: Callable[..., Awaitable[Response]],
) -> Callable[[_Endpoint], _Endpoint]:
    """Answer big bodies of an endpoint by `answer(context, caller, parts, key, **path_params)`.

    `key` is the request's Idempotency-Key, or None.
    """

    def mark(endpoint: _Endpoint) -> _Endpoint:
        endpoint.answer_big = answer  # type: ignore[attr-defined]  # read by BigBodyRoute
        return endpoint

    return mark


class BigBodyRoute(APIRoute):
    """As FastAPI's, but for endpoints that are marked by `answers_big_bodies`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        ordinary = super().get_route_handler()
        answer = getattr(self.endpoint, "answer_big", None)
        if answer is None:
            return ordinary

        async def handle(request: Request) -> Response:
            length = request.headers.get("content-length", "").encode("latin-1")
            if announced_bytes(length) > BIG_BODY_BYTES:
                parts = [part async for part in request.stream()]
            else:
                parts = [await request.body()]  # the request keeps it for the next reader
                if len(parts[0]) <= BIG_BODY_BYTES and not is_crowded(parts[0]):
                    return await ordinary(request)
            key = request.headers.get(IDEMPOTENCY_KEY)
            context, caller = get_context(request), get_caller(request)
            response: Response = await answer(context, caller, parts, key, **request.path_params)
            return response

        return handle
