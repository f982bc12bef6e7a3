"""Retries of requests, without I/O: a flow yields requests and is sent their outcomes.

Rule 1: nothing here sends, sleeps or awaits; the clock and the dice are injected.
Rule 2: every request is safe to repeat unchanged, so each retry sends the same request.
Rule 3: all requests of one operation share one time budget; no wait exceeds it.
"""

import json
import logging
import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from service.client.problems import ProblemError, UnansweredError, problem_of

log = logging.getLogger("carry.client")
"""Warns before each retry: Python prints warnings even if logging is not configured."""

LATER = frozenset({408, 429, 502, 503, 504})
_REFUSED = frozenset({408, 429})
"""The ones that guarantee that the request was not applied."""
REPLAYED = "idempotent-replayed"


class Request(NamedTuple):
    """Sent after a wait of `after_s`, and abandoned after `timeout_s`."""

    method: str
    path: str
    content: bytes = b""
    after_s: float = 0.0
    timeout_s: float = 0.0
    content_type: str = "application/json"
    headers: Mapping[str, str] = MappingProxyType({})
    silence_s: float | None = None
    """The longest silence within a response, if longer than `timeout_s`."""


class Response(NamedTuple):
    """The lookup in `headers` ignores case."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_replayed(self) -> bool:
        """Whether this is a kept reply, and the request was not applied again."""
        return self.headers.get(REPLAYED) == "true"

    def body(self) -> dict[str, Any]:
        try:
            body = json.loads(self.content)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ProblemError(
                "no-json", self.status, "expected a JSON object: is this the address of Carry?", {}
            )
        return body


class NoResponse(NamedTuple):
    """The response is missing or incomplete; `code` is the close code of a WebSocket."""

    why: str
    code: int | None = None
    was_sent: bool = True
    """False if no connection was made, so the request cannot have been applied."""


@dataclass(frozen=True)
class Retries:
    """How long an operation may take in all (`budget_s`), and the waits between its tries.

    Each wait is drawn between 0 and a bound that doubles from `first_wait_s` to `longest_wait_s`,
    and is added to Retry-After.
    """

    budget_s: float = 60.0
    timeout_s: float = 10.0
    first_wait_s: float = 0.1
    longest_wait_s: float = 5.0
    clock: Callable[[], float] = time.monotonic
    dice: Callable[[float, float], float] = random.uniform


class RetryBudget:
    """Time and tries of one operation."""

    def __init__(self, retries: Retries) -> None:
        self.num_tries = 0
        self._retries = retries
        self._give_up = retries.clock() + retries.budget_s
        self._num_waits = 0
        self._last = "it was not sent"
        self._may_be_applied = False
        self._problem: ProblemError | None = None

    def run(self, request: Request) -> Generator[Request, Response | NoResponse, Response]:
        """Send a request until it gets a final response.

        Raises:
            ProblemError: the service refused it.
            UnansweredError: the time is up.
        """
        after_s: float | None = request.after_s
        while after_s is not None:
            timeout_s = self.timeout_s(f"{request.method} {request.path}", after_s)
            outcome = yield request._replace(after_s=after_s, timeout_s=timeout_s)
            after_s = self.wait_after(outcome)
        assert isinstance(outcome, Response), "a lost request is retried"
        return outcome

    def timeout_s(self, what: str, after_s: float = 0.0) -> float:
        """How long the next try may take, if it starts in `after_s`.

        Raises:
            UnansweredError: the time is up.
        """
        left_s = self._give_up - self._retries.clock() - after_s
        if left_s <= 0:
            raise UnansweredError(
                f"{what} got no response within {self._retries.budget_s:g} s; the last failure:"
                f" {self._last}. {self._consequence()}: repeat it unchanged",
                self._problem,
            )
        if self.num_tries:
            log.warning(
                "%s: %s; try %d in %.2f s, %.0f s left",
                what, self._last, self.num_tries + 1, after_s, left_s,
            )  # fmt: skip
        self.num_tries += 1
        return min(self._retries.timeout_s, left_s)

    def _consequence(self) -> str:
        return "It may have been applied" if self._may_be_applied else "It was not applied"

    def wait_after(self, outcome: Response | NoResponse) -> float | None:
        """How long to wait before the next try; None if this is the final response.

        Raises:
            ProblemError: the service refused the request.
        """
        if isinstance(outcome, NoResponse):
            self._problem, self._last = None, outcome.why
            self._may_be_applied |= outcome.was_sent
            return self.wait_s()
        if 200 <= outcome.status < 300:
            return None
        problem = problem_of(outcome.status, outcome.content)
        self._last = str(problem)
        if outcome.status not in LATER:
            raise problem
        self._problem = problem
        self._may_be_applied |= outcome.status not in _REFUSED
        return self.wait_s() + _retry_after_s(outcome)

    def wait_s(self) -> float:
        """A random wait, with a bound that doubles each time."""
        bound_s = self._retries.first_wait_s * 2.0 ** min(self._num_waits, 32)
        self._num_waits += 1
        return self._retries.dice(0.0, min(bound_s, self._retries.longest_wait_s))


def _retry_after_s(response: Response) -> float:
    """Reads seconds only, which the service sends: a date would need clocks that agree."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0
