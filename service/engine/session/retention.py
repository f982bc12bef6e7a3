"""The history that a session keeps beside its replies: pure, like `rules`.

Rule 1: each kind is bounded by a count, chosen when the session was opened, and by bytes. The
        oldest are dropped first.
Rule 2: a checkpoint is the state before a request, so a session can go back to before it.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

from service.engine.session.observation_codec import pack_observations
from service.engine.session.requests import Observations, StepRequest
from service.stores.record.history import Checkpoint, History, HistoryPolicy
from service.stores.record.record import Record

T = TypeVar("T")

MAX_CHECKPOINT_BYTES = 1_048_576
"""The most bytes of the checkpoints of one session."""

MAX_OBSERVATION_BYTES = 1_048_576
"""The most bytes of the kept observations of one session."""

_NOT_KEPT = HistoryPolicy()


def kept_after_step(base: Record, request: StepRequest, num_replies: int) -> History:
    """The history after a step that leaves `num_replies` kept replies, its own the last."""
    kept, keeps = base.history, base.header.keeps or _NOT_KEPT
    before = kept.keys or (b"",) * base.num_replies
    keys = (*before, request.key or b"")[-num_replies:]
    checkpoints = kept.checkpoints
    is_due = not checkpoints or base.step - checkpoints[-1].step >= keeps.checkpoint_every
    if keeps.checkpoints and is_due:
        here = Checkpoint(base.step, base.state, base.cursor)
        checkpoints = _last_checkpoints((*checkpoints, here), keeps)
    return History(keys, checkpoints, with_observations(kept, keeps, request.observations))


def with_observations(
    kept: History, keeps: HistoryPolicy, observed: Observations
) -> tuple[bytes, ...]:
    """The kept observations, after adding `observed`."""
    if not keeps.observations:
        return ()
    last = [*kept.observations, *pack_observations(observed)][-keeps.observations :]
    return tuple(_last_within(last, [len(each) for each in last], MAX_OBSERVATION_BYTES))


def kept_at(record: Record, step: int) -> History:
    """The history of a session after a rewind to `step`: no replies, nothing after the step."""
    kept = record.history
    num_left = max(0, len(kept.observations) - (record.step - step))
    earlier = tuple([each for each in kept.checkpoints if each.step < step])
    return History((), earlier, kept.observations[:num_left])


def _last_checkpoints(
    checkpoints: Sequence[Checkpoint], keeps: HistoryPolicy
) -> tuple[Checkpoint, ...]:
    last = list(checkpoints[-keeps.checkpoints :])
    sizes = [len(each.state) for each in last]
    return tuple(_last_within(last, sizes, MAX_CHECKPOINT_BYTES))


def _last_within(items: list[T], sizes: list[int], max_bytes: int) -> list[T]:
    """The longest end of `items` within `max_bytes`."""
    from_the_end = accumulate(reversed(sizes))
    num_fit = sum(1 for total in from_the_end if total <= max_bytes)
    return items[len(items) - num_fit :]
