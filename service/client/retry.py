"""One request until it is answered, without I/O: a flow yields calls and is sent their outcomes.

Rule 1: nothing here sends, sleeps or awaits; the clock and the dice are given.
Rule 2: every request is safe to repeat as it is, so whatever says "later" leads to the same call.
Rule 3: all calls of one operation share one time budget; no wait goes beyond it.
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
"""Each wait before another try, as a warning: Python prints those where no logging is set up."""

LATER = frozenset({408, 429, 502, 503, 504})
_REFUSED = frozenset({408, 429})
"""Of these: before anything of the request was applied."""
REPLAYED = "idempotent-replayed"


class Request(NamedTuple):
    """To be sent after `after_s`, and given up after `timeout_s`."""

    method: str
    path: str
    content: bytes = b""
    after_s: float = 0.0
    timeout_s: float = 0.0
    content_type: str = "application/json"
    headers: Mapping[str, str] = MappingProxyType({})
    silence_s: float | None = None
    """How long nothing may come of the answer, where that is longer than `timeout_s`."""


class Response(NamedTuple):
    """`headers` are found whatever their case."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_replayed(self) -> bool:
        """Whether this was answered before, and nothing was applied now."""
        return self.headers.get(REPLAYED) == "true"

    def body(self) -> dict[str, Any]:
        try:
            body = json.loads(self.content)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ProblemError(
                "no-json", self.status, "expected a JSON object: is this address Carry's?", {}
            )
        return body


class NoResponse(NamedTuple):
    """No answer came, or not all of it; `code` is that of a WebSocket that was closed."""

    why: str
    code: int | None = None
    was_sent: bool = True
    """False where not even a connection was made, so that nothing can have been applied."""


@dataclass(frozen=True)
class Retries:
    """How long an operation may take in all (`budget_s`), and how its tries are spread.

    Waits are drawn between 0 and a bound that doubles from `first_wait_s` to `longest_wait_s`, on
    top of what Retry-After asks for.
    """

    budget_s: float = 60.0
    timeout_s: float = 10.0
    first_wait_s: float = 0.1
    longest_wait_s: float = 5.0
    clock: Callable[[], float] = time.monotonic
    dice: Callable[[float, float], float] = random.uniform


class RetryBudget:
    """The tries of one operation."""

    def __init__(self, retries: Retries) -> None:
        self.num_tries = 0
        self._retries = retries
        self._give_up = retries.clock() + retries.budget_s
        self._num_waits = 0
        self._last = "it was not sent"
        self._may_be_applied = False
        self._problem: ProblemError | None = None

    def answered(self, call: Request) -> Generator[Request, Response | NoResponse, Response]:
        """The answer that is not "later".

        Raises:
            ProblemError: it is a refusal.
            UnansweredError: time was up.
        """
        after_s: float | None = call.after_s
        while after_s is not None:
            timeout_s = self.timeout_s(f"{call.method} {call.path}", after_s)
            outcome = yield call._replace(after_s=after_s, timeout_s=timeout_s)
            after_s = self.judged(outcome)
        assert isinstance(outcome, Response), "what is lost is tried again"
        return outcome

    def timeout_s(self, what: str, after_s: float = 0.0) -> float:
        """How long the next try may take, if it begins in `after_s`.

        Raises:
            UnansweredError: there is no time for it.
        """
        left_s = self._give_up - self._retries.clock() - after_s
        if left_s <= 0:
            raise UnansweredError(
                f"{what} was not answered within {self._retries.budget_s:g} s, the last time"
                f" because: {self._last}. {self._consequence()}: repeat it as it was",
                self._problem,
            )
        if self.num_tries:
            log.warning(
                "%s: %s; try %d follows in %.2f s, %.0f s are left",
                what, self._last, self.num_tries + 1, after_s, left_s,
            )  # fmt: skip
        self.num_tries += 1
        return min(self._retries.timeout_s, left_s)

    def _consequence(self) -> str:
        return "It may have been applied" if self._may_be_applied else "It was not applied"

    def judged(self, outcome: Response | NoResponse) -> float | None:
        """How long to wait before the same is tried again; None where this is the answer.

        Raises:
            ProblemError: it is a refusal.
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
        """How long to wait before the next try."""
        bound_s = self._retries.first_wait_s * 2.0 ** min(self._num_waits, 32)
        self._num_waits += 1
        return self._retries.dice(0.0, min(bound_s, self._retries.longest_wait_s))


def _retry_after_s(answer: Response) -> float:
    """Seconds only, as the service says it: a date would need the clocks to agree."""
    told = answer.headers.get("retry-after", "")
    return float(told) if told.isascii() and told.isdigit() else 0.0
