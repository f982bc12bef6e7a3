"""Which methods a path answers, and by which route; asked of the routes, for refusals only."""

from starlette.routing import BaseRoute, Match
from starlette.types import Scope

IS_HEAD = "carry.is_head"
"""In the scope of a GET that was a HEAD."""

_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


def methods_at(scope: Scope) -> list[str]:
    """Every method that is answered at the path of this request, sorted."""
    routes = scope["app"].routes
    found = [method for method in _METHODS if _is_answered(routes, {**scope, "method": method})]
    return sorted([*found, "HEAD"] if "GET" in found else found)  # `middleware.AnswerHead`


def route_of(scope: Scope) -> str:
    """The path of the route that a request is for, as it is declared; "unmatched" if there is none.

    Who is refused before the routes, for want of a key or by the size or kind of the body, asked
    for one all the same.
    """
    path = getattr(scope.get("route"), "path", None)
    if path is None and "app" in scope:
        matches = ((route.matches(scope)[0], route) for route in scope["app"].routes)
        found = [(match, route) for match, route in matches if match is not Match.NONE]
        full = [route for match, route in found if match is Match.FULL]
        route = next(iter(full or [route for _, route in found]), None)
        path = route and route.path
    return path or "unmatched"


def _is_answered(routes: list[BaseRoute], scope: Scope) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in routes)


def announced_bytes(length: bytes) -> int:
    """What a Content-Length says, which may begin with any number of zeros; 0 where it is none."""
    # No body has 20 digits, and of more than 4,300 Python makes no number.
    return int(length.lstrip(b"0")[:20] or b"0") if length.isdigit() else 0
