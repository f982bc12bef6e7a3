"""Sequences of the Open Inference Protocol are sessions, under names that no client can choose.

Rule 1: a sequence is keyed by tenant, model and id; the number 5 is not the string "5".
Rule 2: a start on a sequence that goes on begins it anew (Triton's way), or is refused, according
        to `CARRY_V2_START`. It is one write (`engine/session/starts.py`): of several at once each
        is answered as if it were alone, and the latest owns the sequence.
Rule 3: with `sequence_step` a request is applied exactly once; without, as often as it comes.
Rule 4: a sequence stays with the version that it was started with, whatever is loaded later.
"""

from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from service.engine.engine import Engine
from service.engine.models.loaded_model import LoadedModel
from service.engine.session.requests import CreateRequest, Observations, StartRequest, StepRequest
from service.engine.session.rules import Reply
from service.errors import (
    CarryError,
    InvalidInputError,
    SessionClosedError,
    SessionExpiredError,
    SessionNotFoundError,
    UnknownSequenceError,
    VersionGoneError,
)
from service.stores.record.record import Key

_UINT64 = 2**64
_MOST_ID_CHARS = 1024
_ENDED = (SessionNotFoundError, SessionExpiredError, SessionClosedError)


class Sequence(NamedTuple):
    """What the parameters of a request say of its sequence. `step` is ours."""

    id: int | str
    start: bool
    end: bool
    step: int | None

    @classmethod
    def of(cls, parameters: dict[str, Any]) -> "Sequence | None":
        """None where the request belongs to no sequence (no id, 0 or "").

        Raises:
            InvalidInputError: a parameter of the wrong kind.
        """
        found = parameters.get("sequence_id", 0)
        if type(found) is int:
            fits = 0 <= found < _UINT64
        else:
            fits = isinstance(found, str)
            if fits and len(found) > _MOST_ID_CHARS:
                raise InvalidInputError(
                    f"sequence_id has {len(found)} characters: expected at most {_MOST_ID_CHARS}"
                )
        if not fits:
            raise InvalidInputError(
                f"sequence_id is {str(found)[:60]!r}: expected uint64 or string"
            )
        start = _flag(parameters, "sequence_start")
        end = _flag(parameters, "sequence_end")
        step = parameters.get("sequence_step")
        if step is not None and (type(step) is not int or not 0 <= step < 2**62):
            raise InvalidInputError(f"sequence_step is {str(step)[:20]!r}: expected a count")
        if not found:
            return None
        return cls(found, start, end, step)

    def described(self, model: str) -> str:
        """What errors call it."""
        return f"sequence {self.id} of model {model!r}"

    def told(self, step: int) -> dict[str, Any]:
        """The parameters of an answer, behind which the sequence is at `step`."""
        return {
            "sequence_id": self.id,
            "sequence_start": self.start,
            "sequence_end": self.end,
            "sequence_step": step,
        }

    def key(self, tenant: str, model: str) -> Key:
        """Where it is kept: a colon is in no name that clients choose."""
        if isinstance(self.id, int):
            return Key(tenant, f"v2:{model}:i{self.id}")
        digest = blake2b(self.id.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
        return Key(tenant, f"v2:{model}:s{digest}")


async def model_of_sequence(
    engine: Engine,
    name: str,
    version: str | None,
    key: Key,
    sequence: Sequence,
    *,
    is_fresh: bool = False,
) -> LoadedModel:
    """The model, of this name, that a sequence goes on with; as `Engine.model_of`.

    Raises:
        UnknownSequenceError: it was not started, or is over.
        VersionGoneError: its version is not loaded any more.
        InvalidInputError: it is of another version than the one that is asked for.
    """
    try:
        try:
            model = await engine.model_of(key, is_fresh=is_fresh)
        except VersionGoneError:
            await engine.read(key)  # what is over is unknown, of whatever version it was
            raise
    except _ENDED:
        raise _unknown(sequence, name) from None
    if version not in (None, model.version):
        raise InvalidInputError(
            f"sequence {sequence.id} of model {name!r} was started with version {model.version},"
            f" the request asks for version {version}: expected that of the sequence, or none"
        )
    return model


def request_of_sequence(
    sequence: Sequence,
    model: LoadedModel,
    version: str | None,
    observations: Observations,
    start_s: int | None,
    emit: Literal["last", "all"],
    ttl_s: float,
    *,
    restarts: bool,
    asked_at: float,
) -> StepRequest | StartRequest:
    """The start of a sequence, or a step of it.

    `start_s` is the time of the first observation. `asked_at` is when the request arrived. Both are
    in seconds since the epoch. `version` is the one that the client requests.

    Raises:
        InvalidInputError: a start has another `sequence_step` than 0.
    """
    if sequence.end:
        observations = observations._replace(final=True)
    if not sequence.start:
        if start_s is not None:
            observations = observations._replace(time_s=start_s)
        return StepRequest(observations, sequence.step, emit)
    if sequence.step:
        raise InvalidInputError("sequence_step of a start is 0: expected no other")
    create = CreateRequest(model.name, version, ttl_s, start_s=start_s, history=observations)
    if restarts and sequence.step is None:
        return StartRequest.anew(create, asked_at, emit)
    return StartRequest(create, asked_at, emit, replaces=restarts)


async def run_sequence(
    engine: Engine,
    key: Key,
    sequence: Sequence,
    model: str,
    request: StepRequest | StartRequest,
    open_session: Callable[[Key, StartRequest], Awaitable[Reply]],
) -> Reply:
    """Apply one request of a sequence; `open_session` begins it, if its tenant may.

    Raises:
        UnknownSequenceError: it goes on with a sequence that was not started.
        CarryError: as a step of a session.
    """
    if isinstance(request, StartRequest):
        return await open_session(key, request)
    try:
        return await engine.submit(key, request)
    except CarryError as error:
        return reply_of_sequence(error, sequence, model)


def reply_of_sequence(outcome: Reply | CarryError, sequence: Sequence, model: str) -> Reply:
    """The reply to a request of a sequence.

    Raises:
        UnknownSequenceError: the sequence is over, or was not started.
        CarryError: the outcome.
    """
    if isinstance(outcome, _ENDED) and not sequence.start:
        raise _unknown(sequence, model) from None
    if isinstance(outcome, CarryError):
        raise outcome
    return outcome


def only_row(
    rows: list[tuple[Observations, int | None]],
) -> tuple[Observations, int | None]:
    """The row of a request of a sequence.

    Raises:
        InvalidInputError: it has none, or several.
    """
    if len(rows) != 1:
        raise InvalidInputError(
            f"the inputs have {len(rows)} rows: expected one, as each request of a sequence has"
        )
    return rows[0]


def _flag(parameters: dict[str, Any], name: str) -> bool:
    found = parameters.get(name, False)
    if not isinstance(found, bool):
        raise InvalidInputError(f"{name} is {str(found)[:20]!r}: expected a bool")
    return found


def _unknown(sequence: Sequence, model: str) -> UnknownSequenceError:
    return UnknownSequenceError(
        f"inference request for sequence {sequence.id} to model '{model}' must specify the START"
        " flag on the first request of the sequence"
    )
