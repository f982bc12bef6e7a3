"""Session lifecycle: absent → open → stepping → open → closed (or expired).

Rule 1: every transition of a record is in this file, in `starts` or in `operations`.
Rule 2: nothing here awaits, reads a clock or knows a transport.
Rule 3: `decide` is called again after every lost compare-and-swap.
Rule 4: a decision taken from a cached record counts only if it is `Apply`, because the commit
        proves it. The caller repeats any other decision with the stored record.
"""

from dataclasses import replace
from typing import Literal, NamedTuple, TypeGuard

import numpy as np

from service.contract.text import NO_TEXT, UNREAD, TextCursor
from service.engine.models.loaded_model import LoadedModel
from service.engine.session.refusals import require_live, session_not_found, wrong_step
from service.engine.session.requests import (
    CreateRequest,
    DeleteRequest,
    Observations,
    SessionRequest,
    StepRequest,
)
from service.engine.session.retention import kept_after_step, with_observations
from service.errors import DigestMismatchError, SessionExistsError
from service.stores.record.batch_pack import pack_batch
from service.stores.record.history import NO_HISTORY, History, pack_history, unpack_history
from service.stores.record.record import (
    Key,
    PackedOutputs,
    Record,
    SessionHeader,
    pack_data,
)
from service.stores.record.replies import KeptReply, PackedReplies, first_reply_bytes, pack_reply
from service.wordings import case

Taken = Literal["session-exists", "session-exists-resume", "session-exists-replace"]
"""Why a name is not free: the case of a SessionExistsError."""

_FEW = 8
"""Up to this many records, packing one by one is faster than packing columns."""
MAX_RING_BYTES = 1_048_576
"""The most bytes of the kept replies of one session."""


class Apply(NamedTuple):
    """Run the request on `base` and write the outcome if `replaces` is still what is stored.

    `replaces` is None for a new session, whose base is its seed. `expired` is an expired record
    under the same name whose expiry is not reported yet. `fed` replaces the observations of the
    request.
    """

    base: Record
    replaces: Record | None
    expired: Record | None = None
    fed: Observations | None = None


class Answer(NamedTuple):
    """Nothing has to run: this is the reply."""

    reply: "Reply"


class Reply(NamedTuple):
    """The outcome of a request. `record` is the session after it; `outputs` is empty without one.

    `before` is the replaced record, unless the request was a step. `model` ran the request in a
    batch; else it is None, and the registry finds the model by the record's header.
    """

    record: Record
    step: int
    outputs: PackedOutputs
    is_replay: bool = False
    is_new: bool = False
    before: Record | None = None
    model: LoadedModel | None = None


def decide(
    request: StepRequest | DeleteRequest, key: Key, found: Record | None, now: float
) -> Apply | Answer:
    """What a step, preview or delete means for the record that was `found`.

    Raises:
        CarryError: not found, expired, closed, or a wrong step number.
    """
    if found is None:
        raise session_not_found(key)
    if isinstance(request, DeleteRequest):
        return _decide_delete(found, now)
    is_elsewhere = request.step is not None and request.step != found.step
    if (is_elsewhere or request.key is not None) and not request.is_preview:
        replay = _kept_reply(found, request)
        if replay is not None:
            step = replay.from_step + replay.num_observed
            return Answer(Reply(found, step, replay.outputs, is_replay=True))
    require_live(found, now)
    if request.step is not None and is_elsewhere:
        raise wrong_step(found, request.step, is_preview=request.is_preview)
    return Apply(found, found)


def decide_create(
    request: CreateRequest, found: Record | None, seed: Record, now: float
) -> Apply | Answer:
    """What opening a session means if `found` is stored under its name.

    Raises:
        SessionExistsError: it is open, from another request.
    """
    if not is_open(found, now):
        return Apply(seed, None, expired=if_expired(found))
    if request.resumes and found.header.model == request.model:
        return Answer(Reply(found, found.step, b""))
    is_resumable = found.header.model == request.model and not request.resumes
    refusal: Taken = "session-exists-resume" if is_resumable else "session-exists"
    return first_answer(found, seed.header.digest, refusal)


def is_open(found: Record | None, now: float) -> TypeGuard[Record]:
    """Whether the record found under a name is a session that can be stepped."""
    return found is not None and not found.closed and found.expires_at > now


def if_expired(found: Record | None) -> Record | None:
    """The record, if its expiry is not reported yet: `Apply.expired` of its successor."""
    return found if found is not None and not found.closed else None


def first_answer(found: Record, digest: bytes, refusal: Taken = "session-exists") -> Answer:
    """The stored reply to the request that opened a session, for a repetition of it.

    Raises:
        SessionExistsError: the session is open, from another request.
    """
    first = found.header
    if first.digest == digest:
        return Answer(Reply(found, first.history, first.outputs, is_replay=True, is_new=True))
    raise SessionExistsError(
        case(refusal, session=first.name, model=first.model, step=found.step),
        expected_step=found.step,
    )


def seed_record(key: Key, model: LoadedModel, request: CreateRequest, now: float) -> Record:
    """The record of a session without any observation."""
    header = SessionHeader(
        tenant=key.tenant,
        name=key.name,
        fingerprint=model.fingerprint,
        start_s=request.start_s,
        ring_size=request.ring_size,
        created_at=now,
        metadata=request.metadata,
        digest=request.digest,
        keeps=request.keeps,
    )
    return Record(
        header, pack_data(0, model.layout.initial_row, UNREAD, b"", 0, request.ttl_s, now)
    )


def opened(
    seed: Record,
    history: Observations | None,
    state: bytes,
    cursor: TextCursor,
    outputs: PackedOutputs,
    now: float,
) -> tuple[SessionHeader, bytes]:
    """The header and the data of a session, after its history."""
    header, count, kept = seed.header, 0, NO_HISTORY
    if history is not None:
        count = history.num_observed
        header = replace(header, history=count, outputs=outputs)
        if header.keeps is not None:
            kept = History(observations=with_observations(kept, header.keeps, history))
    packed = pack_history(kept)
    return header, pack_data(count, state, cursor, b"", 0, seed.ttl_s, now, history=packed)


def stepped(
    base: Record,
    request: StepRequest,
    state: bytes,
    cursor: TextCursor,
    outputs: PackedOutputs,
    now: float,
) -> bytes:
    """The data after a step; after a final step, a tombstone that keeps its reply."""
    observations = request.observations
    count, step = observations.num_observed, base.step
    replies, num_replies = _with_reply(base, pack_reply(step, count, request.digest, outputs))
    kept = b""
    if request.key is not None or base.header.keeps is not None or not base.is_plain:
        kept = pack_history(kept_after_step(base, request, num_replies))
    if observations.final:
        return _tombstone(step + count, replies, num_replies, kept, now, "final")
    return pack_data(
        step + count, state, cursor, replies, num_replies, base.ttl_s, now, history=kept
    )


def stepped_alike(
    bases: list[Record],
    steps: list[int],
    counts: list[int],
    digests: list[bytes],
    states: np.ndarray,
    outputs: np.ndarray,
    now: float,
) -> list[bytes]:
    """`stepped` for many sessions that each keep one reply.

    `counts` and `digests` belong to the requests; `states` and `outputs` are bytes `[B, …]`.
    """
    ttl_s = [base.ttl_s for base in bases]
    if len(bases) > _FEW:
        return pack_batch(np.array(steps), counts, ttl_s, states, digests, outputs, now)
    rows = zip(steps, counts, ttl_s, states, digests, outputs, strict=True)
    return [
        pack_data(
            step + count, bytes(state), NO_TEXT,
            pack_reply(step, count, digest, bytes(last)), 1, each_ttl_s, now,
        )
        for step, count, each_ttl_s, state, digest, last in rows
    ]  # fmt: skip


def closed(base: Record, reason: str, now: float) -> bytes:
    """A tombstone: no state and no pending text, only the last replies; see `TOMBSTONE_S`."""
    kept = pack_history(base.history)
    return _tombstone(base.step, base.replies, base.num_replies, kept, now, reason)


def may_apply(request: SessionRequest, record: Record, step: int) -> bool:
    """Whether the request can run on a session whose cached record is `record`, at `step`.

    The commit proves the cached record. Every other answer must come from the stored one.
    """
    return (
        isinstance(request, StepRequest)
        and not request.is_preview
        and request.step in (None, step)
        and (request.key is None or request.key not in record.history.keys)
    )


def _tombstone(
    step: int, replies: PackedReplies, num_replies: int, kept: bytes, now: float, reason: str
) -> bytes:
    keys = pack_history(History(keys=unpack_history(kept).keys))
    return pack_data(step, b"", UNREAD, replies, num_replies, 0.0, now, reason, keys)


def _with_reply(base: Record, reply: PackedReplies) -> tuple[PackedReplies, int]:
    """The last replies, bounded by count and bytes, and their number; always the newest."""
    before, num_before = base.replies, base.num_replies
    most_before = base.header.ring_size - 1
    start = 0
    while num_before and (
        num_before > most_before or len(before) - start + len(reply) > MAX_RING_BYTES
    ):
        start += first_reply_bytes(before, start)
        num_before -= 1
    return before[start:] + reply, num_before + 1


def _decide_delete(found: Record, now: float) -> Apply | Answer:
    if found.closed:
        return Answer(Reply(found, found.step, b"", is_replay=True))
    require_live(found, now)
    return Apply(found, found)


def _kept_reply(found: Record, request: StepRequest) -> KeptReply | None:
    """The stored reply that this request repeats, if any."""
    for reply in found.kept_replies:
        by_key, by_step = reply.key == request.key, reply.from_step == request.step
        if by_key if request.step is None else by_step:
            if reply.digest == request.digest:
                return reply
            raise DigestMismatchError(
                case(
                    "digest-mismatch-key" if request.step is None else "digest-mismatch",
                    session=found.header.name,
                    from_step=reply.from_step,
                    expected_step=found.step,
                ),
                expected_step=found.step,
            )
    return None
