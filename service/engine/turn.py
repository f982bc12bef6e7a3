"""One request of a session, the client that waits for it, and how far it has come."""

import asyncio
from typing import Any

from service.contract.text import UNREAD, TextCursor
from service.engine.job import Job
from service.engine.lanes import Lane
from service.engine.requests import SessionRequest
from service.engine.session import Apply, Reply
from service.errors import CarryError


class Turn(Job):
    """A turn is the job of its own request: its lane and its decision travel with it."""

    __slots__ = ("apply", "cursor", "lane", "num_lost_races", "request")

    apply: Apply
    cursor: TextCursor

    def __init__(
        self, lane: Lane, request: SessionRequest, future: "asyncio.Future[Any]", deadline: float
    ) -> None:
        self.lane = lane
        self.request = request
        self.future = future
        self.deadline = deadline
        self.cursor = UNREAD
        self.outputs = b""
        self.num_lost_races = 0

    def end(self, outcome: Reply | CarryError) -> None:
        """Answer the client, once."""
        if self.future.done():  # the client left; what was committed stays committed
            return
        if isinstance(outcome, CarryError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)
