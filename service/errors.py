"""Every error that clients can receive, with its stable code and HTTP status.

The `detail` of an error says what was expected, what was found and how to fix it: in the vocabulary
of `/v1`, or for an error with a case in that of any transport (`wordings.py`). Members such as
`expected_step` are for programs; the response contains them beside `detail`.
"""

from collections.abc import Mapping
from typing import ClassVar

from service.wordings import SESSIONS, Case

Member = int | str | list[int] | list[dict[str, str]]


class CarryError(Exception):
    """Base of every error that the service returns on purpose."""

    case: Case | None

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(
        self, what: str | Case, *, retry_after_s: float | None = None, **members: Member
    ) -> None:
        self.case = what if isinstance(what, Case) else None
        self.detail = what.worded(SESSIONS) if isinstance(what, Case) else what
        super().__init__(self.detail)
        self.retry_after_s = retry_after_s
        self.members = members

    def worded(self, table: Mapping[str, str], **context: object) -> str:
        """Its detail, worded by a table if that has its case."""
        if self.case is None or self.case.name not in table:
            return self.detail
        return self.case.worded(table, **context)


class MalformedError(CarryError):
    code, status, title = "malformed", 400, "Malformed request"


class InvalidInputError(CarryError):
    code, status, title = "invalid-input", 422, "Invalid input"


class TooLargeError(CarryError):
    code, status, title = "too-large", 413, "Request too large"


class UnauthenticatedError(CarryError):
    code, status, title = "unauthenticated", 401, "API key required"


class ForbiddenError(CarryError):
    code, status, title = "forbidden", 403, "Not allowed with this key"


class ModelNotFoundError(CarryError):
    code, status, title = "model-not-found", 404, "Model not found"


class SessionNotFoundError(CarryError):
    code, status, title = "session-not-found", 404, "Session not found"


class SessionExpiredError(CarryError):
    code, status, title = "session-expired", 404, "Session expired"


class SessionClosedError(CarryError):
    code, status, title = "session-closed", 409, "Session closed"


class SessionExistsError(CarryError):
    code, status, title = "session-exists", 409, "Session exists"


class StepConflictError(CarryError):
    code, status, title = "step-conflict", 409, "Step conflict"


class DigestMismatchError(CarryError):
    code, status, title = "digest-mismatch", 409, "Another request was applied at this step"


class ReplayExpiredError(CarryError):
    code, status, title = "replay-expired", 409, "Reply no longer kept"


class CheckpointGoneError(CarryError):
    code, status, title = "checkpoint-gone", 409, "No checkpoint at that step"


class UpgradeRefusedError(CarryError):
    code, status, title = "upgrade-refused", 409, "Upgrade refused"


class SnapshotRefusedError(CarryError):
    code, status, title = "snapshot-refused", 422, "Snapshot refused"


class SnapshotForeignError(CarryError):
    code, status, title = "snapshot-foreign", 403, "Snapshot of another tenant"


class SnapshotsOffError(CarryError):
    code, status, title = "snapshots-off", 501, "Snapshots are off"


class SkippedError(CarryError):
    code, status, title = "skipped", 409, "Skipped after a failed step"


class VersionGoneError(CarryError):
    code, status, title = "version-gone", 409, "Model version gone"


class ContentionError(CarryError):
    code, status, title = "contention", 503, "Session under contention"


class RecordUnreadableError(CarryError):
    code, status, title = "record-unreadable", 500, "Session record unreadable"


class UnsupportedMediaTypeError(CarryError):
    code, status, title = "unsupported-media-type", 415, "Unsupported media type"


class EncodingRefusedError(UnsupportedMediaTypeError):
    """Unsupported content coding; the response lists the supported ones (RFC 9110 §15.5.16)."""

    def __init__(self, detail: str, accepted: str) -> None:
        super().__init__(detail)
        self.accepted = accepted

    def __reduce__(self) -> tuple[type["EncodingRefusedError"], tuple[str, str]]:
        return type(self), (self.detail, self.accepted)


class QueueFullError(CarryError):
    code, status, title = "queue-full", 429, "Queue full"


class TooManyStreamsError(CarryError):
    code, status, title = "too-many-streams", 429, "Too many streams"


class OriginRefusedError(CarryError):
    code, status, title = "origin-refused", 403, "Origin refused"


class DeadlineError(CarryError):
    code, status, title = "deadline-exceeded", 503, "Deadline exceeded"


class StoreUnavailableError(CarryError):
    code, status, title = "store-unavailable", 503, "Session store unavailable"
    is_silent = False
    """The store did not respond in time: this request does not try it again."""


class OutcomeUnknownError(StoreUnavailableError):
    """The reply to a write was lost, so it may have been applied. The engine reads it back."""


class SlowRequestError(CarryError):
    code, status, title = "slow-request", 408, "Request too slow"


class HeadTooLargeError(CarryError):
    code, status, title = "head-too-large", 431, "Headers too large"


class TooManyConnectionsError(CarryError):
    code, status, title = "too-many-connections", 503, "Too many connections"


class UpgradeRequiredError(CarryError):
    code, status, title = "upgrade-required", 426, "WebSocket handshake required"


class RateLimitedError(CarryError):
    code, status, title = "rate-limited", 429, "Rate limit"


class QuotaExceededError(CarryError):
    code, status, title = "quota-exceeded", 403, "Quota exceeded"


class UnknownSequenceError(CarryError):
    code, status, title = "unknown-sequence", 400, "Sequence was not started"


class UnsupportedError(CarryError):
    code, status, title = "unsupported", 501, "Not supported"


class NotReadyError(CarryError):
    code, status, title = "not-ready", 503, "Not ready"


class ReaderDiedError(CarryError):
    code, status, title = "reader-died", 503, "Body could not be read"


class DrainingError(CarryError):
    code, status, title = "draining", 503, "Server is shutting down"


class ModelFailedError(CarryError):
    code, status, title = "model-failed", 500, "Model failed"


class NotFiniteError(CarryError):
    """Outputs or the new state of a graph are not finite: they are neither returned nor stored."""

    code, status, title = "not-finite", 422, "Result or state not finite"


class StartUpError(Exception):
    """The service cannot start; the message names the setting or file to change."""
