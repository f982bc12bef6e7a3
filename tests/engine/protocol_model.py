"""The rules of a session as plain Python, for `test_protocol.py`: no store, no cache, no batches.

A request is told to the model; it says what must come back: the name of an error, or the answer.
"""

from dataclasses import dataclass, field

from service.errors import (
    DigestMismatchError,
    ReplayExpiredError,
    SessionClosedError,
    SessionExistsError,
    SessionExpiredError,
    SessionNotFoundError,
    StepConflictError,
)

TOMBSTONE_S = 600.0


@dataclass
class Life:
    """One session from its opening; `rows` are the numbers of the rows that it was fed."""

    ttl_s: float
    ring_size: int
    expires_at: float
    rows: list[int] = field(default_factory=list)
    is_closed: bool = False
    ring: list[int] = field(default_factory=list)
    """Steps at which kept requests began: each fed one row."""


@dataclass(frozen=True)
class Answered:
    """`rows` are those that the answer is computed from; None where it holds no forecast."""

    step: int
    rows: tuple[int, ...] | None = None
    is_replay: bool = False
    is_new: bool = False


Outcome = Answered | type[Exception]


class Model:
    """Sessions by name. Each method is one request that is applied at the time `now`."""

    def __init__(self) -> None:
        self.lives: dict[str, Life] = {}
        self.now = 1_000_000.0

    def create(self, name: str, ttl_s: float, ring_size: int, *, resumes: bool) -> Outcome:
        life = self.lives.get(name)
        if life is None or life.is_closed or life.expires_at <= self.now:
            self.lives[name] = Life(ttl_s, ring_size, self.now + ttl_s)
            return Answered(0, is_new=True)
        if resumes:
            return Answered(len(life.rows))
        if (life.ttl_s, life.ring_size) == (ttl_s, ring_size):
            return Answered(0, is_replay=True, is_new=True)
        return SessionExistsError

    def step(self, name: str, row: int, step: int | None) -> Outcome:
        life = self.lives.get(name)
        if life is None:
            return SessionNotFoundError
        count = len(life.rows)
        if step in life.ring and step != count:
            if life.rows[step] != row:
                return DigestMismatchError
            return Answered(step + 1, tuple(life.rows[: step + 1]), is_replay=True)
        if refusal := self._refusal(life):
            return refusal
        if step not in (None, count):
            is_past = step < (life.ring[0] if life.ring else count)
            return ReplayExpiredError if is_past else StepConflictError
        life.rows.append(row)
        life.ring = [*life.ring, count][-life.ring_size :]
        life.expires_at = self.now + life.ttl_s
        return Answered(count + 1, tuple(life.rows))

    def preview(self, name: str, row: int) -> Outcome:
        life = self.lives.get(name)
        if life is None:
            return SessionNotFoundError
        rows = (*life.rows, row)
        return self._refusal(life) or Answered(len(rows), rows)

    def delete(self, name: str) -> Outcome:
        life = self.lives.get(name)
        if life is None:
            return SessionNotFoundError
        if life.is_closed:
            return Answered(len(life.rows), is_replay=True)
        if life.expires_at <= self.now:
            return SessionExpiredError
        life.is_closed, life.expires_at = True, self.now
        return Answered(len(life.rows))

    def sweep(self) -> None:
        over = self.now - TOMBSTONE_S
        self.lives = {name: each for name, each in self.lives.items() if each.expires_at > over}

    def _refusal(self, life: Life) -> type[Exception] | None:
        if life.is_closed:
            return SessionClosedError
        return SessionExpiredError if life.expires_at <= self.now else None
