"""Which methods a path answers, asked of the routes; for refusals only, as asking costs."""

from starlette.routing import BaseRoute, Match
from starlette.types import Scope

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_HEAD_AS_GET = "/v2"
"""Under this, HEAD is answered wherever GET is (`open_inference_errors.py`)."""


def methods_at(scope: Scope) -> list[str]:
    """Every method that some route answers at the path of this request, sorted."""
    routes = scope["app"].routes
    found = [method for method in _METHODS if _is_answered(routes, {**scope, "method": method})]
    if "GET" in found and scope["path"].startswith(_HEAD_AS_GET):
        found = sorted({*found, "HEAD"})
    return found


def _is_answered(routes: list[BaseRoute], scope: Scope) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in routes)
