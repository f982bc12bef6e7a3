"""What a client may ask of a session, decoded: no transport, no JSON.

The digest is taken over the decoded request, so that a retry may come by another transport. Whoever
decoded a big one where there was time takes it there too, and hands it on as `known_digest`.
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
    that writes about vectors reads one row and the text behind it, which may be empty.

    `tensors` are packed observations, bytes `[T, n]`; `constants` are what else the graph is fed
    with, packed, empty for those of the manifest. `final` ends the session after these; of a text,
    what was uncertain becomes certain. With `sampling` the text, which may be empty, is written on.
    `time_s` is when the client says that the first row is; it must be the time that follows.
    """

    rows: np.ndarray | None = None
    text: str | None = None
    final: bool = False
    tensors: np.ndarray | None = None
    constants: bytes = b""
    sampling: Sampling | None = None
    time_s: int | None = None

    def with_listener(self, listener: Listener) -> "Observations":
        """The same; `listener` hears what is written."""
        sampling = self.sampling and self.sampling._replace(listener=listener)
        return self._replace(sampling=sampling)

    @property
    def num_observed(self) -> int:
        """How many observations these are: rows, sets of tensors, or one chunk."""
        if self.rows is None:
            return 1 if self.tensors is None else len(self.tensors)
        return len(self.rows)

    def described(self) -> tuple[str, bytes]:
        """What they are, in a word, and their content: two different ones differ in either."""
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

    `key`, the digest of an Idempotency-Key, stands for the step where the client names none.
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
        """The same request, with what was written behind the text as if it had been read."""
        read = self.observations._replace(text=(self.observations.text or "") + text, sampling=None)
        return self._replace(observations=read, known_digest=self.digest)


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """Open a session on `model`, warmed up on `history` where there is one."""

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
        if self.keeps:  # without, the digest is that of before there was any
            asked.append(list(self.keeps))
        asked_json = orjson.dumps(asked, option=orjson.OPT_SORT_KEYS).decode()
        what, content = self.history.described() if self.history else ("nothing", b"")
        head = f"create {len(asked_json)}:{asked_json} {what};".encode()
        return blake2b(head + content, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class StartRequest:
    """Begin a session anew: one write puts it in the place of whatever is there.

    `opening` says what to open; its history is what it begins with, and closes it where that is
    final. Repeated, it is answered as it was, unless its digest is its own (`anew`).
    `replaces` is False where a session that is open is not to be replaced. `asked_at`, seconds
    since the epoch, is when the request arrived: of two starts at once the later one stays.
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
        """A start that repeats no other."""
        return cls(replace(header, known_digest=token_bytes(16)), asked_at, emit)

    @property
    def observations(self) -> Observations:
        assert self.header.history is not None, "a start feeds at least one observation"
        return self.header.history

    @property
    def answers_all(self) -> bool:
        """Whether more than one step is answered."""
        return self.emit == "all" and self.observations.num_observed > 1

    @property
    def digest(self) -> bytes:
        if not self.answers_all and not self.observations.final:
            return self.header.digest
        return blake2b(self.header.digest + self.emit.encode(), digest_size=16).digest()


class _Unfed:
    """A request that feeds nothing to the session."""

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
    """Open a session that goes on from where `source` stands; None: as the source has it."""

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
    """Go back to an earlier step, of which the state was kept."""

    operation: ClassVar[str | None] = "rewind"
    step: int


@dataclass(frozen=True, slots=True)
class RestoreRequest(_Unfed):
    """Go on with a session that was proven to be as it was sealed. `digest` is of its snapshot."""

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
    """Go on with another version: with the state as it is, or with one made of the last rows.

    `force`: carry it on although it was made by weights to which it means something else.
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


# A digest is taken over a head, which names the sizes of all that varies, and the content: so no
# two requests are the same bytes. Heads are few, and made for every step.


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
