"""What errors say to clients of `/v2`: sequences, inputs and parameters, where `/v1` has sessions.

A case that is missing here says the same in both (`tests/api/test_open_inference_errors.py`).
"""

from collections.abc import Mapping
from typing import Final

_START: Final = (
    "inference request for {sequence} must specify the START flag on the first request of the"
    " sequence"
)

SEQUENCES: Final[Mapping[str, str]] = {
    # A sequence, as it was found. Clients know Triton's sentence for all that cannot go on.
    "session-not-found": _START,
    "session-closed": _START,
    "session-expired": _START,
    "session-exists": (
        "{sequence} is open at step {step}, from another start: expected it to end first"
        " (sequence_end), another sequence_id, or a server with CARRY_V2_START=restart"
    ),
    "record-unfit": (
        "{sequence} has a state of {state_bytes} bytes, its model carries {expected_bytes}: the"
        " record is damaged; restart the sequence with sequence_start"
    ),
    "version-gone": (
        "{sequence} belongs to version {version}, which is not loaded as it was (loaded:"
        " {loaded}{changed}): a state is valid only for its own weights; load that bundle again by"
        " POST /v2/repository/models/{model}/load, or restart the sequence with sequence_start"
    ),
    # A request of it, and where it stands.
    "step-conflict": (
        "{sequence} is at step {expected_step}, the request has sequence_step {step}: send the"
        " request that follows the last one applied"
    ),
    "replay-expired": (
        "{sequence} keeps the response to its last request only; that to sequence_step {step} is"
        " dropped: expected sequence_step {expected_step}"
    ),
    "digest-mismatch": (
        "{sequence} already applied another request with sequence_step {from_step}; it is at step"
        " {expected_step} now: repeat a request as it was, or send the next"
    ),
    # Inputs.
    "rows-expected": "model {model!r} reads rows: expected input {input!r}",
    "tensors-expected": "model {model!r} reads tensors: expected inputs {names}",
    "text-expected": "model {model!r} reads text: expected input 'text'",
    "rows-of-other-width": (
        "input {input!r} has {num_values} values in its last axis: expected {expected}"
    ),
    "vector-expected": (
        "model {model!r} writes about a vector: expected input {input!r} with {expected} numbers"
        " before any text"
    ),
    "vector-unfit": (
        "input {input!r}: expected {expected} finite numbers for each row, none of them missing"
    ),
    "model-writes-not": (
        "model {model!r} does not write: expected a model whose configuration has the parameter"
        " carry_task = generate; send this one's inputs to POST /v2/models/{model}/infer"
    ),
    "start-expected": (
        "model {model!r} uses the time of each step: expected input {input!r}, INT64 [rows, steps],"
        " in seconds since 1970-01-01 UTC"
    ),
    "time-unfit": (
        "input {input!r} begins at {time_s}: expected {expected_s}, the time of step {row} of this"
        " sequence; send steps that are missing as NaN"
    ),
    "time-beyond": (
        "input {input!r}: step {row} of the sequence lies past the year 9999: expected an earlier"
        " first time, or fewer steps"
    ),
    "instance-refused": "row {index} of the inputs: {why}",
    # What the server could not do.
    "model-not-found": "no model {model!r}; loaded are {loaded} (see POST /v2/repository/index)",
    "model-unloaded": (
        "model {model!r} version {version} was unloaded; nothing was applied: see"
        " POST /v2/repository/index for what is loaded"
    ),
    "not-finite": (
        "expected finite numbers from model {model!r} version {version}, got infinity or NaN in its"
        " outputs or its new state; nothing was applied: look for a value that is far beyond those"
        " of training; a sequence of which every input is refused has had such a state for longer:"
        " restart it with sequence_start"
    ),
    "session-queue-full": (
        "{sequence} has {num_waiting} requests waiting; nothing was applied: send fewer at once"
    ),
    "contention": (
        "{sequence}: {num_lost} other requests committed first; nothing was applied: step a"
        " sequence from one client at a time"
    ),
    "session-unusable": (
        "{sequence} could not be read or run ({error}); nothing was applied: try again"
    ),
    "outcome-unknown": (
        "{what}; whether the request was applied is not known: repeat it with its sequence_step"
    ),
    "quota-exceeded": (
        "tenant {tenant!r} has {num_sessions} sequences and sessions open, of {num_bytes} bytes:"
        " expected less than {max_sessions} and {max_bytes} bytes; end some (sequence_end)"
    ),
    "internal": (
        "the server failed on this request; whether it was applied is not known: repeat it with its"
        " sequence_step"
    ),
}
