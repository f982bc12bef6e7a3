"""A start: a session that restarts, whatever is stored under its name.

Rule 1: as in `rules`: nothing here awaits or reads a clock, and after a lost compare-and-swap
        everything is decided again from the stored record.
Rule 2: a start is one write, which replaces the record that it was decided on, or creates one. So a
        session holds the observations of one start and of its later steps, never parts of two.
Rule 3: a start whose write lost to another start is answered as if it had been written right
        before that one, unless it arrived later: then it is decided again, and replaces it. So the
        latest of several wins, and an abandoned start does not undo the next one.
Rule 4: a start that also ends its session writes nothing if no session is open.
"""

from dataclasses import replace

from service.contract.text import UNREAD, TextCursor
from service.engine.session.refusals import wrong_step
from service.engine.session.requests import StartRequest
from service.engine.session.rules import (
    Answer,
    Apply,
    Reply,
    first_answer,
    if_expired,
    is_open,
    opened,
)
from service.stores.record.record import PackedOutputs, Record, SessionHeader, pack_data
from service.stores.record.replies import pack_reply


def decide_start(
    request: StartRequest, found: Record | None, seed: Record, seen: bytes | None, now: float
) -> Apply | Answer | None:
    """What a start means if `found` is stored under its name; None: it was superseded (rule 3).

    `seen` is the digest of the header of its first decision: empty if no session was open, None
    for the first decision itself.

    Raises:
        SessionExistsError: a session is open, and the request must not replace it.
        ReplayExpiredError: it is the start of the open session, which has advanced since.
    """
    if not is_open(found, now):
        return Apply(seed, None, expired=if_expired(found))
    header = found.header
    if header.digest == request.digest:
        return _first_answer(request, found)
    if not request.replaces:
        return first_answer(found, request.digest)
    is_concurrent = seen is not None and seen != header.digest
    if is_concurrent and header.created_at > request.asked_at:
        return None
    return Apply(seed, found)


def opening_seen(found: Record | None, now: float) -> bytes:
    """The `seen` of a second call of `decide_start`."""
    return found.header.digest if is_open(found, now) else b""


def started(
    seed: Record,
    request: StartRequest,
    state: bytes,
    cursor: TextCursor,
    outputs: PackedOutputs,
    now: float,
) -> tuple[SessionHeader, bytes]:
    """The header and the data of a session that was restarted.

    The outputs of several steps go to the kept replies, which the next step replaces: a header
    stays as long as its session.
    """
    observations = request.observations
    count = observations.num_observed
    if observations.final:
        data = pack_data(count, b"", UNREAD, b"", 0, 0.0, now, "final")
        return replace(seed.header, history=count), data
    if not request.answers_all:
        return opened(seed, observations, state, cursor, outputs, now)
    header = replace(seed.header, history=count)
    reply = pack_reply(0, count, request.digest, outputs)
    return header, pack_data(count, state, cursor, reply, 1, seed.ttl_s, now)


def leaves_nothing(request: StartRequest, replaces: Record | None) -> bool:
    """Whether the start writes nothing (rule 4)."""
    return request.observations.final and replaces is None


def _first_answer(request: StartRequest, found: Record) -> Answer:
    if not request.answers_all:
        return first_answer(found, request.digest)
    for reply in found.kept_replies:
        if reply.from_step == 0:
            return Answer(
                Reply(found, reply.num_observed, reply.outputs, is_replay=True, is_new=True)
            )
    raise wrong_step(found, 0)
