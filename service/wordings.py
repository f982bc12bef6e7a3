"""What errors say, apart from the transports: cases with data, and one table of words for each.

Rule 1: where an error is raised it names its case and carries the data of it. A transport puts that
        into the words that its clients use: `SESSIONS` here, for everything under `/v1`;
        `api/v2/wordings.py` for `/v2`.
Rule 2: an error that says the same in every transport needs no case.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable


@runtime_checkable
class Worded(Protocol):
    """What a table has words for: an error."""

    def worded(self, table: Mapping[str, str], **context: object) -> str: ...


class Case(NamedTuple):
    """What happened, and the data that its wordings need; an error among it is worded as well."""

    name: str
    data: Mapping[str, Any]

    def worded(self, table: Mapping[str, str], **context: object) -> str:
        """The case in the words of a table; `context` is what the transport knows beside it."""
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
        "no session {session!r}: it was never opened, or it ended long ago; open it with"
        " POST /v1/sessions"
    ),
    "session-closed": "session {session!r} was closed ({reason}) at step {step}: open a new one",
    "session-expired": (
        "session {session!r} expired: it was not stepped within its ttl of {ttl_s:g} s; open it"
        " again"
    ),
    "session-exists": (
        "session {session!r} is open, from another request (model {model!r}, step {step}): choose"
        " another name, or close it first"
    ),
    "session-exists-resume": (
        "session {session!r} is open, from another request (model {model!r}, step {step}): choose"
        ' another name, or send "if_exists": "resume" to continue it'
    ),
    "session-exists-replace": (
        "session {session!r} is open, from another request (model {model!r}, step {step}): choose"
        " another name, or use ?replace=true to replace it"
    ),
    "record-unfit": (
        "session {session!r} has a state of {state_bytes} bytes, its model carries"
        " {expected_bytes}: the record is damaged; open the session again"
    ),
    "version-gone": (
        "the session belongs to model {model!r} version {version}, which is not loaded as it was"
        " (loaded: {loaded}{changed}): a state is valid only for its own weights; load that bundle"
        ' again, hand the session on by POST /v1/sessions/{{session}}/upgrade with "policy":'
        ' "replay" (of the observations that it keeps), or open a new one'
    ),
    # A step, and where the session stands.
    "step-conflict": (
        "session {session!r} is at step {expected_step}, the request names step {step}: send the"
        " observation that follows the last one applied"
    ),
    "replay-expired": (
        "session {session!r} keeps the replies of its last {num_kept} requests; that of step"
        " {step} was dropped: expected step {expected_step}"
    ),
    "digest-mismatch": (
        "session {session!r} already applied another request at this step (step {from_step}); it"
        " is at step {expected_step} now: repeat a request as it was, or send the next"
    ),
    "digest-mismatch-key": (
        "session {session!r} already applied another request under this Idempotency-Key (step"
        " {from_step}); it is at step {expected_step} now: repeat a request as it was, or send the"
        " next"
    ),
    # What was observed.
    "rows-expected": 'model {model!r} reads rows: expected "observations"',
    "tensors-expected": 'model {model!r} reads tensors: expected "tensors", with {names}',
    "text-expected": 'model {model!r} reads text: expected "text", got none',
    "rows-of-other-width": "rows have {num_values} values, model {model!r} reads {expected}",
    "vector-expected": (
        'model {model!r} writes about a vector: expected "observations" with one row of {expected}'
        " numbers before any text"
    ),
    "vector-unfit": (
        "model {model!r} writes about one vector at a time: expected one row of {expected}"
        " numbers, none of them missing; got {num_rows} of {num_values}"
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
        " this session; send rows that are missing as NaN"
    ),
    "time-beyond": (
        "row {row} of the session lies past the year 9999: expected an earlier start or fewer rows"
    ),
    "instance-refused": "instances[{index}]: {why}",
    # What the server could not do.
    "model-not-found": "no model {model!r}; loaded are {loaded} (see GET /v1/models)",
    "model-unloaded": (
        "model {model!r} version {version} was unloaded; nothing was applied: see GET /v1/models"
        " for what is loaded"
    ),
    "not-finite": (
        "expected finite numbers from model {model!r} version {version}, got infinity or NaN in its"
        " outputs or its new state; nothing was applied: look for a value that is far beyond those"
        " of training; a session of which every input is refused has had such a state for longer:"
        " rewind it, or open a new one"
    ),
    "session-queue-full": (
        "session {session!r} has {num_waiting} requests waiting; nothing was applied: send fewer at"
        " once"
    ),
    "contention": (
        "session {session!r}: {num_lost} other writers committed first; nothing was applied: step a"
        " session from one client at a time"
    ),
    "session-unusable": (
        "the session could not be read or run ({error}); nothing was applied: try again"
    ),
    "outcome-unknown": ("{what}; whether the request was applied is not known: " + _UNKNOWN_REMEDY),
    "quota-exceeded": (
        "tenant {tenant!r} has {num_sessions} sessions open, of {num_bytes} bytes: expected less"
        " than {max_sessions} and {max_bytes} bytes; close some, or let them expire sooner (ttl_s)"
    ),
    "internal": (
        "the server failed on this request; whether it was applied is not known: read the session,"
        " or repeat the step with its number"
    ),
}
"""Sessions, steps and observations: the words of `/v1`, its streams and its bulk requests."""
