"""A start: a session that begins anew, in the place of whatever is there.

Rule 1: as in `session`: nothing here awaits or reads a clock, and everything is decided again after
        a lost compare-and-swap, from what the store holds.
Rule 2: a start is one write. It replaces the record that it was decided on, or creates one; so a
        session holds what one start has fed, and the steps behind it, never parts of two.
Rule 3: a start whose write lost to another start is answered as if it had been written right
        before that one, unless it arrived later: then it is decided again, and replaces it. So the
        latest of several stays, and a start that its client gave up does not undo the next one.
Rule 4: a start that also ends its session leaves nothing open. Where nothing was, nothing is
        written.
"""

from dataclasses import replace

from service.contract.text import UNREAD, TextCursor
from service.engine.session.requests import StartRequest
from service.engine.session.rules import (
    Answer,
    Apply,
    Reply,
    first_answer,
    if_expired,
    is_open,
    opened,
    wrong_step,
)
from service.stores.record.record import PackedOutputs, Record, SessionHeader, pack_data
from service.stores.record.replies import pack_reply


def decide_start(
    request: StartRequest, found: Record | None, seed: Record, seen: bytes | None, now: float
) -> Apply | Answer | None:
    """What a start means where `found` lies under its name; None: it was superseded (rule 3).

    `seen` is the digest of the opening that it was first decided on; empty where none was open,
    None where this is the first time.

    Raises:
        SessionExistsError: a session is open, and is not to be replaced.
        ReplayExpiredError: it is the start of the open session, which has gone on since.
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
    """What `decide_start` is told when it is asked again."""
    return found.header.digest if is_open(found, now) else b""


def started(
    seed: Record,
    request: StartRequest,
    state: bytes,
    cursor: TextCursor,
    outputs: PackedOutputs,
    now: float,
) -> tuple[SessionHeader, bytes]:
    """The opening and the data of a session that began anew.

    Where several steps are answered the answer lies with the replies, which the next step replaces:
    an opening stays as long as its session.
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
    """Whether nothing is to be written (rule 4)."""
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
