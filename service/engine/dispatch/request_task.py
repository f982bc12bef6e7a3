"""One request of a session, the client that waits for it, and how far it has come."""

import asyncio
from typing import Any

from service.contract.text import TextCursor
from service.engine.dispatch.session_queues import SessionQueue
from service.engine.inference.job import Job
from service.engine.session.requests import SessionRequest
from service.engine.session.rules import Reply
from service.engine.timing import RequestTiming
from service.errors import CarryError
from service.stores.record.record import Record


class RequestTask(Job):
    """A task is the job of its own request: its queue, and what was decided, travel with it.

    `base` is the record that the request is run on; `replaces` is the one that must still be
    stored, None for a new session; `expired` is one in whose place a new session is opened. `seen`
    is what a start was first decided on (`starts`).
    """

    __slots__ = (
        "base",
        "cursor",
        "expired",
        "num_lost_races",
        "queue",
        "replaces",
        "request",
        "seen",
    )  # fmt: skip

    base: Record
    replaces: Record | None
    cursor: TextCursor
    seen: bytes | None  # of a start only

    def __init__(
        self,
        queue: SessionQueue,
        request: SessionRequest,
        future: "asyncio.Future[Any]",
        deadline: float,
        timing: RequestTiming | None = None,
    ) -> None:
        self.queue = queue
        self.request = request
        self.future = future
        self.deadline = deadline
        self.timing = timing
        self.expired: Record | None = None
        self.num_lost_races = 0

    @property
    def futures(self) -> "tuple[asyncio.Future[Any]]":
        """Whoever waits for it."""
        return (self.future,)

    def is_wanted(self) -> bool:
        """False when the client left, or its deadline passed, while it waited."""
        return not self.future.done()

    def end(self, outcome: Reply | CarryError) -> None:
        """Answer the client, once."""
        if self.future.done():  # the client left; what was committed stays committed
            return
        if isinstance(outcome, CarryError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)
