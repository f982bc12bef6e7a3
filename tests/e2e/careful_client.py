"""A client that loses nothing: it sends a step until it is answered, always with its number.

Rule 1: it knows what it sent, and what each answer must hold: it never asks the server for that.
Rule 2: cut connections, timeouts, 429 and 5xx that say "later" lead to the same request again, at
        the next address; a 500 or an answer that differs is a defect.
Rule 3: `expected_step` of a 409 tells where to go on. It may lie behind (a store that lost what it
        had acknowledged): that is counted in `num_gone_back`, for the test to judge, as is a
        duplicate that was applied and not replayed. It never lies ahead: nobody else steps this
        session.
"""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

from tests.e2e.connection import Answer, Connection

LATER = {429, 502, 503, 504}
START = "2016-08-22"
TOLERANCE = 1e-4


class Steps(NamedTuple):
    """What one session is sent, and what it must be answered: T rows, and T forecasts."""

    rows: list[list[float]]
    means: list[list[float]]  # [T, K]
    quantiles: list[dict[str, list[float]]]


class CarefulClient:
    """One client with one session, over one connection for each address.

    It gives up, and fails, when a request is not answered within `give_up_s`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        session: str,
        steps: Steps,
        rng: random.Random,
        *,
        timeout_s: float = 5.0,
        give_up_s: float = 60.0,
        duplicates: float = 0.02,
    ) -> None:
        self.session = session
        self.step = 0
        self.num_retries = self.num_replays = self.num_gone_back = 0
        self._path = f"/v1/sessions/{session}"
        self._steps = steps
        self._rng = rng
        self._timeout_s, self._give_up_s, self._duplicates = timeout_s, give_up_s, duplicates
        self._connections = [Connection(url) for url in urls]
        rng.shuffle(self._connections)
        self._tasks = cycle(self._connections)
        self._connection = next(self._tasks)

    async def run(self, on_step) -> None:
        """Open the session and send every step from `step` on; tell `on_step` after each."""
        try:
            body = {"model": "load", "session": self.session, "start": START}
            opened = await self._until_answered("POST", "/v1/sessions", body)
            assert opened.status == 201, self._told(opened)
            while self.step < len(self._steps.rows):
                await self._send_next()
                on_step(self)
        finally:
            self.close()

    async def stored_step(self) -> int:
        """The count that the server holds."""
        answer = await self._until_answered("GET", self._path, None)
        assert answer.status == 200, self._told(answer)
        return answer.json()["step"]

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    async def _send_next(self) -> None:
        body = {"step": self.step, "observations": [self._steps.rows[self.step]]}
        answer = await self._until_answered("POST", self._path + "/steps", body)
        if answer.status == 409:
            self._go_back(answer)
            return
        self._check(answer)
        self.num_replays += _is_replayed(answer)
        if self._rng.random() < self._duplicates:
            again = await self._until_answered("POST", self._path + "/steps", body)
            if again.status == 409:
                self._go_back(again)
                return
            self._check(again)
            if _is_replayed(again):
                assert again.body == answer.body, self._told(again)
            else:  # applied a second time: the store had lost it
                self.num_gone_back += 1
        self.step += 1

    def _go_back(self, conflict: Answer) -> None:
        expected = conflict.json().get("expected_step")
        assert isinstance(expected, int), self._told(conflict)
        assert expected < self.step, self._told(conflict)
        self.num_gone_back += self.step - expected
        self.step = expected

    def _check(self, answer: Answer) -> None:
        assert answer.status == 200, self._told(answer)
        told = answer.json()
        assert told["step"] == self.step + 1, self._told(answer)
        assert _is_near(told["prediction"]["mean"], self._steps.means[self.step]), self._told(
            answer
        )
        expected = self._steps.quantiles[self.step]
        got = told["prediction"]["quantiles"]
        assert got.keys() == expected.keys(), self._told(answer)
        assert all(_is_near(got[level], expected[level]) for level in got), self._told(answer)

    async def _until_answered(self, method: str, path: str, body: object) -> Answer:
        give_up = time.monotonic() + self._give_up_s
        while True:
            try:
                answer = await self._connection.request(method, path, body, self._timeout_s)
                if answer.status not in LATER:
                    return answer
                problem = self._told(answer)
            except (OSError, TimeoutError) as error:
                problem = repr(error)
            assert time.monotonic() < give_up, f"{self.session} was not answered: {problem}"
            self.num_retries += 1
            self._connection = next(self._tasks)
            await asyncio.sleep(self._rng.uniform(0.05, 0.5))  # as a client waits before a retry

    def _told(self, answer: Answer) -> str:
        expected = self._steps.means[self.step] if self.step < len(self._steps.means) else None
        return (
            f"session {self.session} at step {self.step} was answered {answer.status}"
            f" {json.dumps(answer.headers)} {answer.body.decode()}; expected mean {expected}"
        )


def _is_replayed(answer: Answer) -> bool:
    return answer.headers.get("idempotent-replayed") == "true"


def _is_near(got: list[float], expected: list[float]) -> bool:
    return len(got) == len(expected) and all(
        abs(a - b) <= TOLERANCE for a, b in zip(got, expected, strict=True)
    )
