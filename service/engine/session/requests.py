"""The requests of a session, decoded: no transport, no JSON.

The digest is of the decoded request, so that a client can retry over another transport. The process
that decodes a big request also computes its digest and passes it as `known_digest`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from itertools import repeat
from secrets import token_bytes
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import orjson

from service.engine.graph.sampler import Listener, Sampling
from service.stores.record.history import HistoryPolicy
from service.stores.record.record import Key, Record


class Observations(NamedTuple):
    """Rows `[T, F]` (NaN = missing), tensors, or one chunk of text; the others are None. A model
    that generates text about vectors reads one row and the text after it, which can be empty.

    `tensors` are packed observations, bytes `[T, n]`; `constants` are the packed constant inputs,
    empty for those of the manifest. `final` ends the session after these observations, which makes
    the pending text certain. With `sampling` the model continues the text, which can be empty.
    `time_s` is the client's time of the first row; it must equal the session's next time.
    """

    rows: np.ndarray | None = None
    text: str | None = None
    final: bool = False
    tensors: np.ndarray | None = None
    constants: bytes = b""
    sampling: Sampling | None = None
    time_s: int | None = None

    def with_listener(self, listener: Listener) -> "Observations":
        """The same, with a listener for generated characters."""
        sampling = self.sampling and self.sampling._replace(listener=listener)
        return self._replace(sampling=sampling)

    @property
    def num_observed(self) -> int:
        """The number of rows or sets of tensors; one for a chunk of text."""
        if self.rows is None:
            return 1 if self.tensors is None else len(self.tensors)
        return len(self.rows)

    def described(self) -> tuple[str, bytes]:
        """A description and the content; different observations differ in one of them."""
        if self.tensors is not None:
            head = _tensors_head(*self.tensors.shape, len(self.constants), self.final)
            return head, self.tensors.tobytes() + self.constants
        if self.rows is None:
            content = (self.text or "").encode("utf-8", "surrogatepass")
            how = f" written {self.sampling.described()}" if self.sampling else ""
            return f"text final={self.final}{how} bytes={len(content)}", content
        head = _rows_head(*self.rows.shape) + (" final" if self.final else "")
        if self.text is None and self.sampling is None:
            return head, self.rows.tobytes()
        behind, content = self._replace(rows=None).described()
        return f"{head} {behind}", self.rows.tobytes() + content


class StepRequest(NamedTuple):
    """Feed observations to a session. `step` is the count that the client believes is current.

    `key`, the digest of an Idempotency-Key, identifies a step without a number.
    """

    observations: Observations
    step: int | None = None
    emit: Literal["last", "all"] = "last"
    is_preview: bool = False
    known_digest: bytes | None = None
    key: bytes | None = None

    @property
    def operation(self) -> None:
        return None

    @property
    def digest(self) -> bytes:
        if self.known_digest is not None:
            return self.known_digest
        what, content = self.observations.described()
        return blake2b(_step_head(self.emit, what) + content, digest_size=16).digest()

    def as_written(self, text: str) -> "StepRequest":
        """The same request, with the generated text as if the client had sent it."""
        read = self.observations._replace(text=(self.observations.text or "") + text, sampling=None)
        return self._replace(observations=read, known_digest=self.digest)


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """Open a session on `model`, after running its `history` if there is one."""

    model: str
    version: str | None
    ttl_s: float
    ring_size: int = 1
    start_s: int | None = None
    history: Observations | None = None
    metadata: dict[str, Any] | None = None
    resumes: bool = False
    known_digest: bytes | None = None
    keeps: HistoryPolicy | None = None
    operation: ClassVar[None] = None
    emit: ClassVar[Literal["last"]] = "last"
    is_preview: ClassVar[bool] = False
    key: ClassVar[None] = None

    @property
    def observations(self) -> Observations | None:
        return self.history

    @property
    def digest(self) -> bytes:
        if self.known_digest is not None:
            return self.known_digest
        asked: list[Any] = [self.model, self.version, self.ttl_s, self.ring_size, self.start_s]
        asked.append(self.metadata)
        if self.keeps:  # else the digest stays as earlier versions made it
            asked.append(list(self.keeps))
        asked_json = orjson.dumps(asked, option=orjson.OPT_SORT_KEYS).decode()
        what, content = self.history.described() if self.history else ("nothing", b"")
        head = f"create {len(asked_json)}:{asked_json} {what};".encode()
        return blake2b(head + content, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class StartRequest:
    """Restart a session: one write replaces whatever is stored under its name.

    `header` is the session to open, with its first observations as history; final observations
    close it. A repeated start gets the same reply, unless its digest is random (`anew`).
    Without `replaces` an open session is not replaced. `asked_at`, seconds since the epoch, is when
    the request arrived: of two concurrent starts the later one wins.
    """

    header: CreateRequest
    asked_at: float
    emit: Literal["last", "all"] = "last"
    replaces: bool = True
    operation: ClassVar[None] = None
    is_preview: ClassVar[bool] = False
    key: ClassVar[None] = None

    @classmethod
    def anew(
        cls, header: CreateRequest, asked_at: float, emit: Literal["last", "all"] = "last"
    ) -> "StartRequest":
        """A start that never counts as a repetition."""
        return cls(replace(header, known_digest=token_bytes(16)), asked_at, emit)

    @property
    def observations(self) -> Observations:
        assert self.header.history is not None, "a start feeds at least one observation"
        return self.header.history

    @property
    def answers_all(self) -> bool:
        """Whether the reply has more than one step."""
        return self.emit == "all" and self.observations.num_observed > 1

    @property
    def digest(self) -> bytes:
        if not self.answers_all and not self.observations.final:
            return self.header.digest
        return blake2b(self.header.digest + self.emit.encode(), digest_size=16).digest()


class _Unfed:
    """A request without observations."""

    __slots__ = ()
    operation: ClassVar[str | None] = None
    observations: ClassVar[None] = None
    emit: ClassVar[Literal["last"]] = "last"
    is_preview: ClassVar[bool] = False
    key: ClassVar[None] = None


@dataclass(frozen=True, slots=True)
class DeleteRequest(_Unfed):
    """Close a session."""


@dataclass(frozen=True, slots=True)
class ForkRequest(_Unfed):
    """Open a session at the state of `source`; None: the value of the source."""

    operation: ClassVar[str | None] = "fork"
    source: Key
    ttl_s: float | None = None
    metadata: dict[str, Any] | None = None

    @property
    def digest(self) -> bytes:
        asked = orjson.dumps(
            ["fork", self.source.name, self.ttl_s, self.metadata], option=orjson.OPT_SORT_KEYS
        )
        return blake2b(asked, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class RewindRequest(_Unfed):
    """Go back to the checkpoint of an earlier step."""

    operation: ClassVar[str | None] = "rewind"
    step: int


@dataclass(frozen=True, slots=True)
class RestoreRequest(_Unfed):
    """Continue the session of a verified snapshot. `digest` is of the snapshot."""

    operation: ClassVar[str | None] = "restore"
    sealed: Record
    digest: bytes
    replaces: bool = False

    @classmethod
    def of(cls, snapshot: bytes, sealed: Record, *, replaces: bool) -> "RestoreRequest":
        digest = blake2b(b"restore " + snapshot, digest_size=16).digest()
        return cls(sealed, digest, replaces)


@dataclass(frozen=True, slots=True)
class UpgradeRequest(_Unfed):
    """Continue with another version: with the same state, or after a replay of kept observations.

    `force`: carry the state over although other weights made it.
    """

    operation: ClassVar[str | None] = "upgrade"
    version: str
    policy: Literal["carry", "replay"] = "carry"
    force: bool = False


SessionRequest = (
    StepRequest
    | CreateRequest
    | StartRequest
    | DeleteRequest
    | ForkRequest
    | RewindRequest
    | RestoreRequest
    | UpgradeRequest
)


def digests_of_rows(rows: np.ndarray, emits: Iterable[str] = repeat("last")) -> list[bytes]:
    """`StepRequest.digest` of each row, as a request of that row alone.

    `rows` are `[N, F]`, or packed tensors, bytes `[N, n]`.
    """
    num_rows, width = rows.shape
    what = _tensors_head(1, width) if rows.dtype == np.uint8 else _rows_head(1, width)
    heads = {emit: _step_head(emit, what) for emit in ("last", "all")}
    data, size = rows.tobytes(), rows.strides[0]
    starts = range(0, num_rows * size, size)
    return [
        blake2b(heads[emit] + data[at : at + size], digest_size=16).digest()
        for at, emit in zip(starts, emits, strict=False)
    ]


# A digest covers a head, with the sizes of all variable parts, and the content, so that different
# requests are different bytes. Heads are few and needed by every step, hence the caches.


@lru_cache
def _step_head(emit: str, what: str) -> bytes:
    return f"step emit={emit} {what};".encode()


@lru_cache
def _tensors_head(
    num_steps: int, num_bytes: int, num_constant_bytes: int = 0, final: bool = False
) -> str:
    return f"tensors {num_steps}x{num_bytes} constants={num_constant_bytes} final={final}"


@lru_cache
def _rows_head(num_steps: int, num_values: int) -> str:
    return f"rows {num_steps}x{num_values}"
