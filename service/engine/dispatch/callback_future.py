"""A future for one who is told of the outcome at once, and not in the loop's next round."""

import asyncio
from collections.abc import Callable

from service.engine.session.rules import Reply
from service.errors import CarryError

OnEnd = Callable[[Reply | CarryError], None]


class CallbackFuture(asyncio.Future[None]):
    """Calls `on_end` with a reply or an error, once; never after it was cancelled.

    By itself it says only that this is over, so an error in it is not one that nobody asked for.
    What it calls may be in the midst of a group of many, and must not keep the others from theirs:
    a failure of it goes to the loop's handler.
    """

    def __init__(self, on_end: OnEnd, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._on_end = on_end

    def set_result(self, outcome: Reply) -> None:  # type: ignore[override]  # is told, not kept
        super().set_result(None)
        self._tell(outcome)

    def set_exception(self, outcome: CarryError) -> None:  # type: ignore[override]  # neither
        super().set_result(None)
        self._tell(outcome)

    def refuse(self, error: CarryError) -> None:
        """Tell of an error from the loop's next round on."""
        self.get_loop().call_soon(self._refuse, error)

    def _refuse(self, error: CarryError) -> None:
        if not self.done():
            self.set_exception(error)

    def _tell(self, outcome: Reply | CarryError) -> None:
        try:
            self._on_end(outcome)
        except Exception as error:  # one client's boundary
            told = {"message": "an answer could not be given", "exception": error}
            self.get_loop().call_exception_handler(told)
