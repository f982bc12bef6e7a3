"""Session lifecycle: absent → open → stepping → open → closed (or expired).

Rule 1: every transition of a record happens in this file.
Rule 2: nothing here awaits, reads a clock or knows a transport.
Rule 3: `decide` is asked again, in full, after every lost compare-and-swap.
Rule 4: a decision taken from a cached record counts only if it is `Apply`, because the commit
        proves it; any other is taken again from the store (the caller's duty).
"""

from dataclasses import replace
from typing import NamedTuple

from service.contract.text import TextCursor
from service.engine.registry import LoadedModel
from service.engine.requests import CreateRequest, DeleteRequest, SessionRequest, StepRequest
from service.errors import (
    DigestMismatchError,
    ReplayExpiredError,
    SessionClosedError,
    SessionExistsError,
    SessionExpiredError,
    SessionNotFoundError,
    StepConflictError,
)
from service.stores.record import KeptReply, Key, Opening, PackedOutputs, Record, new_revision

MAX_RING_BYTES = 1_048_576
"""Of the replies that one session keeps."""


class Apply(NamedTuple):
    """Run the request on `base` and write the outcome if `expected` is still the revision.

    `expired` is the record in whose place it will be, where nobody has said yet that it expired.
    """

    base: Record
    expected: bytes | None
    expired: Record | None = None


class Answer(NamedTuple):
    """Nothing is to be run: this is the reply."""

    reply: "Reply"


class Reply(NamedTuple):
    """What a request came to. `record` is the session after it; `outputs` is empty without one."""

    record: Record
    step: int
    outputs: PackedOutputs
    is_replay: bool = False
    is_new: bool = False


def decide(
    request: StepRequest | DeleteRequest, key: Key, found: Record | None, now: float
) -> Apply | Answer:
    """What a step, preview or delete means for the record that was `found`.

    Raises:
        CarryError: not found, expired, closed, or a step number that does not fit.
    """
    if found is None:
        raise session_not_found(key)
    if isinstance(request, DeleteRequest):
        return _decide_delete(found, now)
    replay = _kept_reply(found, request)
    if replay is not None:
        step = replay.from_step + replay.num_observed
        return Answer(Reply(found, step, replay.outputs, is_replay=True))
    require_live(found, now)
    if request.step is not None and request.step != found.step:
        raise _wrong_step(found, request.step, is_preview=request.is_preview)
    return Apply(found, found.revision)


def decide_create(
    request: CreateRequest, found: Record | None, seed: Record, now: float
) -> Apply | Answer:
    """What opening a session means where `found` lies under its name.

    Raises:
        SessionExistsError: it is open, from another request.
    """
    if found is None or found.closed:
        return Apply(seed, None)
    if found.expires_at <= now:
        return Apply(seed, None, expired=found)
    if request.resumes and found.opening.model == request.model:
        return Answer(Reply(found, found.step, b""))
    if found.opening.reply.digest == seed.opening.reply.digest:
        first = found.opening.reply
        return Answer(Reply(found, first.num_observed, first.outputs, is_replay=True, is_new=True))
    remedy = "choose another name, or close it first"
    if found.opening.model == request.model and not request.resumes:
        remedy = 'choose another name, or say "if_exists": "resume" to go on with it'
    raise SessionExistsError(
        f"session {seed.opening.name!r} is open, from another request (model"
        f" {found.opening.model!r}, step {found.step}): {remedy}",
        expected_step=found.step,
    )


def seed_record(key: Key, model: LoadedModel, request: CreateRequest, now: float) -> Record:
    """The record of a session that has not seen anything yet."""
    opening = Opening(
        tenant=key.tenant,
        name=key.name,
        model=model.name,
        version=model.version,
        state_schema=model.layout.schema_hash,
        graph_sha256=model.graph_sha256,
        start_s=request.start_s,
        ring_size=request.ring_size,
        created_at=now,
        metadata=request.metadata,
        reply=KeptReply(0, 0, request.digest, b""),
    )
    return Record(
        opening=opening,
        revision=new_revision(),
        step=0,
        state=model.layout.initial_row,
        cursor=TextCursor(),
        ring=(),
        ttl_s=request.ttl_s,
        updated_at=now,
    )


def opened(
    seed: Record, count: int, state: bytes, cursor: TextCursor, outputs: PackedOutputs, now: float
) -> Record:
    """The first record of a session, after its history."""
    reply = seed.opening.reply._replace(num_observed=count, outputs=outputs)
    opening = replace(seed.opening, reply=reply)
    return seed._replace(opening=opening, step=count, state=state, cursor=cursor, updated_at=now)


def stepped(
    base: Record,
    request: StepRequest,
    state: bytes,
    cursor: TextCursor,
    outputs: PackedOutputs,
    now: float,
) -> Record:
    """The record after a step; a final one is a tombstone that keeps its reply."""
    count = request.observations.num_observed
    kept = KeptReply(base.step, count, request.digest, outputs)
    record = Record(
        base.opening,
        new_revision(),
        base.step + count,
        state,
        cursor,
        _trimmed((*base.ring, kept), base.opening.ring_size),
        base.ttl_s,
        now,
    )
    return closed(record, "final", now) if request.observations.final else record


def closed(base: Record, reason: str, now: float) -> Record:
    """A tombstone: no state and no pending text, only the last replies; see `TOMBSTONE_S`."""
    return base._replace(
        revision=new_revision(),
        state=b"",
        cursor=TextCursor(),
        closed=reason,
        ttl_s=0.0,
        updated_at=now,
    )


def session_not_found(key: Key) -> SessionNotFoundError:
    return SessionNotFoundError(
        f"no session {key.name!r}: it was never opened, or it ended long ago; open it with"
        " POST /v1/sessions"
    )


def is_fresh_needed(request: SessionRequest) -> bool:
    """Requests whose answer no commit proves must look into the store first."""
    return not isinstance(request, StepRequest) or request.is_preview


def _trimmed(ring: tuple[KeptReply, ...], ring_size: int) -> tuple[KeptReply, ...]:
    """The last replies, bounded by count and by bytes; the newest is always kept."""
    ring = ring[-ring_size:]
    while len(ring) > 1 and sum(len(reply.outputs) for reply in ring) > MAX_RING_BYTES:
        ring = ring[1:]
    return ring


def _decide_delete(found: Record, now: float) -> Apply | Answer:
    if found.closed:
        return Answer(Reply(found, found.step, b"", is_replay=True))
    require_live(found, now)
    return Apply(found, found.revision)


def _kept_reply(found: Record, request: StepRequest) -> KeptReply | None:
    """The stored reply that this request repeats, if any."""
    if request.step is None or request.is_preview:
        return None
    for reply in found.ring:
        if reply.from_step == request.step:
            if reply.digest == request.digest:
                return reply
            raise DigestMismatchError(
                f"session {found.opening.name!r} already applied another request at step"
                f" {request.step}; it is at step {found.step} now: repeat a request as it was,"
                " or send the next",
                expected_step=found.step,
            )
    return None


def require_live(found: Record, now: float) -> None:
    """Raise SessionClosedError or SessionExpiredError unless the record can be stepped."""
    if found.closed:
        raise SessionClosedError(
            f"session {found.opening.name!r} was closed ({found.closed}) at step {found.step}:"
            " open a new one",
            expected_step=found.step,
        )
    if found.expires_at <= now:
        raise SessionExpiredError(
            f"session {found.opening.name!r} expired: no step came within its ttl of"
            f" {found.ttl_s:g} s; open it again"
        )


def _wrong_step(
    found: Record, step: int, *, is_preview: bool
) -> StepConflictError | ReplayExpiredError:
    name, num_kept = found.opening.name, found.opening.ring_size
    oldest_kept = found.ring[0].from_step if found.ring else found.step
    if step < oldest_kept and not is_preview:
        return ReplayExpiredError(
            f"session {name!r} keeps the replies of its last {num_kept} requests; that of step"
            f" {step} is gone: expected step {found.step}",
            expected_step=found.step,
        )
    return StepConflictError(
        f"session {name!r} is at step {found.step}, the request names step {step}: send the"
        " observation that follows the last one applied",
        expected_step=found.step,
    )
