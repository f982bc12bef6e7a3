"""Every route needs a key, except those named here; a route takes its caller as `InCaller`.

A session is found under its caller's tenant only, so what belongs to somebody else is not found.
"""

from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.auth.keys import Caller, KeyRing
from service.api.auth.rate_limits import RateLimits
from service.api.problems import carry_problem, error_responses
from service.errors import CarryError, ForbiddenError, RateLimitedError, UnauthenticatedError
from service.settings import Settings

OPEN_PATHS = frozenset(
    {
        "/",
        "/docs",
        "/docs/oauth2-redirect",
        "/redoc",
        "/openapi.json",
        "/asyncapi.json",
        "/healthz",
        "/readyz",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
    }
)
"""What shows nothing of any tenant, and is asked by probes and browsers that have no key."""

METRICS_PATH = "/metrics"
_OPEN_FOLDER = "/static-offline-docs/"


def open_paths_of(settings: Settings) -> frozenset[str]:
    return OPEN_PATHS if settings.metrics_need_key else OPEN_PATHS | {METRICS_PATH}


def find_caller(keys: KeyRing, scope: Scope) -> Caller:
    """Who asks.

    Raises:
        UnauthenticatedError: no key that is known, or more than one header.
    """
    said = [value for name, value in scope["headers"] if name == b"authorization"]
    caller = keys.find(said[0] if len(said) == 1 else None)
    if caller is None:
        raise UnauthenticatedError(
            "this needs a key that is known here, neither revoked nor expired: send it as"
            " 'Authorization: Bearer KEY'"
        )
    return caller


class RequireKey:
    """Puts the caller into the scope, or answers 401, or 429 where its limits are used up.

    `open_paths` are let through without.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyRing,
        rates: RateLimits,
        open_paths: frozenset[str] = frozenset(),
    ) -> None:
        self._app = app
        self._rates = rates
        self._keys = keys
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not self._is_open(scope["path"]):
            try:
                caller = scope["caller"] = find_caller(self._keys, scope)
                if caller.limits:
                    send = _adding(await self._rates.count(caller), send)
            except (UnauthenticatedError, RateLimitedError) as error:
                await _refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self._open_paths or path.startswith(_OPEN_FOLDER)


def get_caller(connection: HTTPConnection) -> Caller:
    caller = connection.scope.get("caller")
    assert isinstance(caller, Caller), "RequireKey stands before every route that has a caller"
    return caller


def get_admin(connection: HTTPConnection) -> Caller:
    """The caller of a route that only admins may use.

    Raises:
        ForbiddenError: the caller is none.
    """
    caller = get_caller(connection)
    if not caller.is_admin:
        raise ForbiddenError(
            "this is for admins, and the key is one of a user: ask with a key of role 'admin'"
        )
    return caller


InCaller = Annotated[Caller, Depends(get_caller)]
InAdmin = Annotated[Caller, Depends(get_admin)]


def document_keys(document: dict[str, Any], open_paths: frozenset[str]) -> None:
    """Say in an OpenAPI document which operations need a key, and how it is sent."""
    document["components"]["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "Where the server has CARRY_API_KEYS_FILE; without it, anything goes.",
        }
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            is_open = path in open_paths
            operation["security"] = [] if is_open else [{"key": []}]
            if not is_open:
                said = {str(status): answer for status, answer in error_responses(401, 403).items()}
                operation["responses"] |= said


def _adding(headers: list[tuple[bytes, bytes]], send: Send) -> Send:
    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *headers]}
        await send(message)

    return add


async def _refuse(error: CarryError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
        await carry_problem(error)(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": error.title})
