"""How the messages of one stream are followed: under its request id, each with its own timing."""

import time
from collections.abc import Mapping
from typing import Any

import orjson
import structlog

from service.api.auth.keys import Caller
from service.api.context import Context
from service.api.problems import ids_of_request, problem_of
from service.api.request_scope import begin_timing, known_by, where_time_went
from service.engine.timing import RequestTiming

log = structlog.get_logger()


class StreamFollower:
    """Made by the socket for its stream, from the headers that asked for it."""

    def __init__(
        self, context: Context, caller: Caller, request_id: str, headers: Mapping[bytes, bytes]
    ) -> None:
        self._context = context
        self._caller = caller
        self._request_id = request_id
        self._headers = headers
        self._slow_s = context.settings.slow_request_s
        self._has_resumed = False

    def begin(self) -> RequestTiming | None:
        """A message is taken up."""
        return begin_timing(self._context, self._headers, is_linked=True)

    def resumed(self) -> None:
        """The client asked again for what it had missed."""
        if not self._has_resumed:
            self._has_resumed = True
            self._context.metrics.stream_resumed("websocket")

    def problem(
        self, error: Exception, echo: dict[str, Any], timing: RequestTiming | None = None
    ) -> bytes:
        """The answer to a message that failed."""
        names = {"session": echo["session"]} if "session" in echo else {}
        with known_by(self._request_id, timing, **names):
            problem = problem_of(error, "a stream") | ids_of_request()
            try:
                return orjson.dumps(problem | echo)
            except TypeError:  # it cannot be said again; those behind wait for this answer
                return orjson.dumps(problem)

    def answered(self, session: str, timing: RequestTiming, error: Exception | None) -> None:
        """Tell the trace of a message, and the log if it was slow."""
        ended_s = time.perf_counter()
        seconds = ended_s - timing.began_s
        if timing.is_sampled:
            has_failed = error is not None and getattr(error, "status", 500) >= 500
            ids = {"carry.request_id": self._request_id, "carry.session": session}
            timing.end("step of a stream", ended_s, ids, has_failed=has_failed)
        if 0 < self._slow_s < seconds:
            said = {"tenant": self._caller.tenant} | where_time_went(timing, ended_s)
            with known_by(self._request_id, timing, session=session):
                log.warning("slow step of a stream", **said, seconds=round(seconds, 6))
