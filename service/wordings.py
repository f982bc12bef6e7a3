"""Texts of errors that differ by transport: cases with data, and one table of texts per transport.

Rule 1: the code that raises an error names its case and passes the data. A transport formats it in
        the vocabulary of its clients: with `SESSIONS` here, for everything under `/v1`; with
        `api/v2/wordings.py` for `/v2`.
Rule 2: an error with the same text in every transport needs no case.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable


@runtime_checkable
class Worded(Protocol):
    """An error that a table can word."""

    def worded(self, table: Mapping[str, str], **context: object) -> str: ...


class Case(NamedTuple):
    """What happened, and the data of its texts; an error in the data is worded as well."""

    name: str
    data: Mapping[str, Any]

    def worded(self, table: Mapping[str, str], **context: object) -> str:
        """The text of the case in a table; `context` is additional data of the transport."""
        data = {
            key: value.worded(table, **context) if isinstance(value, Worded) else value
            for key, value in self.data.items()
        }
        return table[self.name].format(**data, **context)


def case(name: str, **data: object) -> Case:
    return Case(name, data)


_UNKNOWN_REMEDY: Final = "repeat it with its step"

SESSIONS: Final[Mapping[str, str]] = {
    # A session, as it was found.
    "session-not-found": (
        "session {session!r} does not exist: it was never opened, or it ended long ago; open it"
        " with POST /v1/sessions"
    ),
    "session-closed": "session {session!r} was closed ({reason}) at step {step}: open a new one",
    "session-expired": (
        "session {session!r} expired: it had no step within its ttl_s of {ttl_s:g}; open it again"
    ),
    "session-exists": (
        "session {session!r} was already opened by another request (model {model!r}, step {step}):"
        " choose another name, or close it first"
    ),
    "session-exists-resume": (
        "session {session!r} was already opened by another request (model {model!r}, step {step}):"
        ' choose another name, or send "if_exists": "resume" to continue it'
    ),
    "session-exists-replace": (
        "session {session!r} was already opened by another request (model {model!r}, step {step}):"
        " choose another name, or use ?replace=true to replace it"
    ),
    "record-unfit": (
        "session {session!r}: expected a state of {expected_bytes} bytes, found {state_bytes}: the"
        " record is damaged; open the session again"
    ),
    "version-gone": (
        "the session belongs to model {model!r} version {version}, which is not loaded as it was"
        " (loaded: {loaded}{changed}): a state is valid only for its own weights; load that bundle"
        " again, move the session to another version with POST /v1/sessions/{{session}}/upgrade"
        ' and "policy": "replay" (replays its kept observations), or open a new session'
    ),
    # A step, and the count of the session.
    "step-conflict": (
        "session {session!r}: expected step {expected_step}, found step {step} in the request: send"
        " the observation that follows the last one applied"
    ),
    "replay-expired": (
        "session {session!r} keeps the replies of its last {num_kept} requests; the reply of step"
        " {step} is no longer kept: expected step {expected_step}"
    ),
    "digest-mismatch": (
        "session {session!r} already applied another request at this step (step {from_step}); it"
        " is at step {expected_step} now: repeat the request unchanged, or send the next one"
    ),
    "digest-mismatch-key": (
        "session {session!r} already applied another request under this Idempotency-Key (step"
        " {from_step}); it is at step {expected_step} now: repeat the request unchanged, or send"
        " the next one with a new key"
    ),
    # Observations.
    "rows-expected": 'model {model!r} reads rows: expected "observations"',
    "tensors-expected": 'model {model!r} reads tensors: expected "tensors", with {names}',
    "text-expected": 'model {model!r} reads text: expected "text", got none',
    "rows-of-other-width": "model {model!r}: expected rows of {expected} values, got {num_values}",
    "vector-expected": (
        'model {model!r} writes about a vector: expected "observations" with one row of {expected}'
        " numbers before any text"
    ),
    "vector-unfit": (
        "model {model!r} writes about one vector at a time: expected one row of {expected}"
        " numbers, none of them missing; got {num_rows} rows of {num_values}"
    ),
    "model-writes-not": (
        "model {model!r} does not write: expected a session of a model with the task 'generate'"
        " (see GET /v1/models)"
    ),
    "start-expected": (
        'model {model!r} uses the time of each row: expected "start", the time of the first row,'
        ' such as "2016-08-29"'
    ),
    "time-unfit": (
        "the first row has the time {time_s}: expected {expected_s}, the time of row {row} of"
        " this session; send missing rows as NaN"
    ),
    "time-beyond": (
        "row {row} of the session is after the year 9999: expected an earlier start or fewer rows"
    ),
    "instance-refused": "instances[{index}]: {why}",
    # Failures of the server, and its limits.
    "model-not-found": "no model {model!r}: loaded are {loaded} (see GET /v1/models)",
    "model-unloaded": (
        "model {model!r} version {version} was unloaded; nothing was applied: see GET /v1/models"
        " for what is loaded"
    ),
    "not-finite": (
        "expected finite numbers from model {model!r} version {version}, got infinity or NaN in its"
        " outputs or its new state; nothing was applied: look for an input far outside the range of"
        " the training data; if every input is refused, the session's state itself is too large:"
        " rewind the session, or open a new one"
    ),
    "session-queue-full": (
        "session {session!r} has {num_waiting} requests waiting; nothing was applied: send fewer"
        " requests at once"
    ),
    "contention": (
        "session {session!r}: {num_lost} other writers committed first; nothing was applied: step a"
        " session from one client at a time"
    ),
    "session-unusable": ("the step failed ({error}); nothing was applied: try again"),
    "outcome-unknown": ("{what}; whether the request was applied is not known: " + _UNKNOWN_REMEDY),
    "quota-exceeded": (
        "tenant {tenant!r} has {num_sessions} open sessions of {num_bytes} bytes: expected fewer"
        " than {max_sessions} sessions and {max_bytes} bytes; close some, or use a shorter ttl_s"
    ),
    "internal": (
        "the server failed on this request; whether it was applied is not known: read the session,"
        " or repeat the step with its number"
    ),
}
"""The texts of `/v1`, its streams and its bulk requests."""
