"""Which methods a path answers, asked of the routes; for refusals only, as asking costs."""

from starlette.routing import BaseRoute, Match
from starlette.types import Scope

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


def methods_at(scope: Scope) -> list[str]:
    """Every method that some route answers at the path of this request, sorted."""
    routes = scope["app"].routes
    return [method for method in _METHODS if _is_answered(routes, {**scope, "method": method})]


def _is_answered(routes: list[BaseRoute], scope: Scope) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in routes)
