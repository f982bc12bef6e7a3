"""What a client may ask of a session, decoded: no transport, no JSON.

The digest is taken over the decoded request, so that a retry may come by another transport.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson


class Observations(NamedTuple):
    """Rows `[T, F]` (NaN = missing) or one chunk of text; the other is None.

    `final` ends a text: what was uncertain becomes certain, and the session closes.
    """

    rows: np.ndarray | None = None
    text: str | None = None
    final: bool = False

    @property
    def num_observed(self) -> int:
        """How many observations these are: rows, or one chunk."""
        return 1 if self.rows is None else len(self.rows)

    def digest_parts(self) -> list[bytes]:
        if self.rows is None:
            return [
                b"text",
                (self.text or "").encode("utf-8", "surrogatepass"),
                b"\x01" if self.final else b"\x00",
            ]
        return [b"rows", str(self.rows.shape).encode(), self.rows.tobytes()]


class StepRequest(NamedTuple):
    """Feed observations to a session. `step` is the count that the client believes is current."""

    observations: Observations
    step: int | None = None
    emit: Literal["last", "all"] = "last"
    is_preview: bool = False

    @property
    def digest(self) -> bytes:
        return _digest([b"step", self.emit.encode(), *self.observations.digest_parts()])


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """Open a session on `model`, warmed up on `history` where there is one."""

    model: str
    version: str | None
    ttl_s: float
    ring_size: int = 1
    start_s: int | None = None
    history: Observations | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    resumes: bool = False

    @property
    def digest(self) -> bytes:
        asked = [self.model, self.version, self.ttl_s, self.ring_size, self.start_s, self.metadata]
        parts = [b"create", orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)]
        return _digest(parts + (self.history.digest_parts() if self.history else []))


@dataclass(frozen=True, slots=True)
class DeleteRequest:
    """Close a session."""


SessionRequest = StepRequest | CreateRequest | DeleteRequest


def _digest(parts: list[bytes]) -> bytes:
    lengths = ",".join([str(len(part)) for part in parts]) + ";"
    return hashlib.blake2b(b"".join([lengths.encode(), *parts]), digest_size=16).digest()
