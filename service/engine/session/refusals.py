"""Why a session does not accept a request: the errors that several rules raise."""

from service.errors import (
    ReplayExpiredError,
    SessionClosedError,
    SessionExpiredError,
    SessionNotFoundError,
    StepConflictError,
)
from service.stores.record.record import Key, Record
from service.wordings import case


def session_not_found(key: Key) -> SessionNotFoundError:
    return SessionNotFoundError(case("session-not-found", session=key.name))


def require_live(found: Record, now: float) -> None:
    """Raise SessionClosedError or SessionExpiredError unless the record can be stepped."""
    if found.closed:
        raise SessionClosedError(
            case("session-closed", session=found.header.name, reason=found.closed, step=found.step),
            expected_step=found.step,
        )
    if found.expires_at <= now:
        raise SessionExpiredError(
            case("session-expired", session=found.header.name, ttl_s=found.ttl_s)
        )


def require_found(found: Record | None, key: Key, now: float) -> Record:
    """The record, if there is one that can be stepped; else as `require_live`, or not found."""
    if found is None:
        raise session_not_found(key)
    require_live(found, now)
    return found


def wrong_step(
    found: Record, step: int, *, is_preview: bool = False
) -> StepConflictError | ReplayExpiredError:
    """The error for a request whose `step` is neither the current nor a kept one."""
    name = found.header.name
    ring = found.kept_replies
    oldest_kept = ring[0].from_step if ring else found.step
    if step < oldest_kept and not is_preview:
        return ReplayExpiredError(
            case(
                "replay-expired",
                session=name,
                num_kept=found.header.ring_size,
                step=step,
                expected_step=found.step,
            ),
            expected_step=found.step,
        )
    return StepConflictError(
        case("step-conflict", session=name, step=step, expected_step=found.step),
        expected_step=found.step,
    )
