"""A request that the fast path answers: its body was received completely, and it needs no ASGI."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from starlette.responses import Response

from service.api.auth.keys import Caller
from service.engine.timing import RequestTiming

OnOutcome = Callable[[Response | Exception], None]


class Operation(Protocol):
    """`route` is its template in metrics and logs, `path` what the client requested."""

    @property
    def caller(self) -> Caller: ...

    @property
    def route(self) -> str: ...

    @property
    def path(self) -> str: ...

    def submit(
        self, timing: RequestTiming | None, on_outcome: OnOutcome
    ) -> "asyncio.Future[Any] | None":
        """Pass the request to the engine at once; `on_outcome` receives the response or an error.

        None, with nothing done, if it cannot be decided at once: then `respond` answers it. The
        future can be cancelled if the client has left.

        Raises:
            CarryError: the request is refused.
        """

    async def respond(self) -> Response:
        """Answer the request in any case.

        Raises:
            Exception: to be answered by `problem`.
        """

    def problem(self, error: Exception) -> Response:
        """The response to an error, in the form of its transport."""
