"""From JSON bodies to what the engine takes. Every refusal names the place in the body."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

from pydantic import BaseModel

from service.api import limits
from service.api.codec.generation import decode_prompt, refuse_writing
from service.api.codec.rows import read_rows, read_vector
from service.api.codec.schemas import Instance, Observed, PredictRequest, SessionCreate, StepBody
from service.api.codec.tensors import read_tensors
from service.api.codec.validation import parse_body, refuse_crowded
from service.contract.calls import ObservationLayout
from service.contract.manifest import Manifest
from service.contract.outputs import OutputLayout
from service.engine.session.requests import CreateRequest, Observations, StepRequest
from service.errors import InvalidInputError, TooLargeError
from service.settings import Settings
from service.stores.record.history import HistoryPolicy

NANOSECOND_RANGE_S = 2**62 // 10**9
"""Times within about ±146 years of 1970: what every calendar in use here covers."""

_DAY_S = 86_400

_Body = TypeVar("_Body", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class BodySpec:
    """What of a model its bodies are read by: worked out once, and small enough to be sent along.

    Without `columns` and `tensors` it reads text; a model that writes reads text in any case, about
    a row where it has columns. A model that tags answers every row it reads.
    """

    name: str
    columns: tuple[str, ...] | None
    uses_time: bool
    frequency_s: int
    reply_bytes_per_step: int
    tensors: ObservationLayout | None = None
    writes: bool = False
    tags: bool = False

    @property
    def wanted(self) -> str:
        """The member of a body that it is sent by."""
        if self.tensors is not None:
            return "tensors"
        return "text" if self.columns is None else "observations"

    @classmethod
    def of(cls, manifest: Manifest) -> "BodySpec":
        forecast, graph = manifest.forecast, manifest.graph
        return cls(
            manifest.name,
            manifest.columns,
            graph.input_with("time") is not None,
            0 if forecast is None else forecast.frequency_s,
            OutputLayout(graph.outputs).step_bytes,
            ObservationLayout(graph) if graph.tensors else None,
            writes=manifest.generate is not None,
            tags=manifest.tag is not None,
        )


_OF_VECTORS = (["text"], ["observations"], ["text", "observations"])

Catalog = Mapping[tuple[str, str | None], BodySpec]
"""By name and version; None is the default version."""


class Asked(NamedTuple):
    """A `POST …/predict`: for each instance, its observations and the time of its first row."""

    instances: list[tuple[Observations, int | None]]
    ids: list[str | None]
    quantiles: list[float] | None
    horizon: int | None


class UnknownModel(NamedTuple):
    """A body names a model that is not in the catalog."""

    model: str
    version: str | None


# Whole bodies, for the process that reads the big ones. The digest of a long history takes
# milliseconds as well.


def read_create(
    catalog: Catalog, parts: list[bytes], settings: Settings
) -> tuple[str | None, CreateRequest] | UnknownModel:
    """The session's name, where the client chose one, and what it asks for."""
    body = _parse(SessionCreate, parts, settings)
    reads = catalog.get((body.model, body.version))
    if reads is None:
        return UnknownModel(body.model, body.version)
    request = decode_create(reads, body, settings)
    return body.session, replace(request, known_digest=request.digest)


def read_step(
    model: BodySpec, schema: type[Observed], parts: list[bytes], settings: Settings
) -> StepRequest:
    request = decode_step(model, _parse(schema, parts, settings))
    return request._replace(known_digest=request.digest)


def read_predict(model: BodySpec, parts: list[bytes], settings: Settings) -> Asked:
    return decode_predict(model, _parse(PredictRequest, parts, settings))


def _parse(schema: type[_Body], parts: list[bytes], settings: Settings) -> _Body:
    data = b"".join(parts)
    refuse_crowded(data, settings)
    return parse_body(schema, data)


# Bodies that are parsed.


def decode_predict(model: BodySpec, body: PredictRequest) -> Asked:
    """What a `POST …/predict` asks for."""
    if len(body.instances) > limits.MAX_INSTANCES:
        raise TooLargeError(
            f"{len(body.instances)} instances: expected at most {limits.MAX_INSTANCES};"
            " send them in several calls"
        )
    instances = [
        _decode_asked(model, instance, f"instances[{index}]")
        for index, instance in enumerate(body.instances)
    ]
    num_observed = sum(observations.num_observed for observations, _ in instances)
    _bound(num_observed, limits.MAX_ROWS, "the request", "observations in all")
    _bound_reply(model, num_observed if model.tags else len(instances))
    ids = [instance.id for instance in body.instances]
    return Asked(instances, ids, body.quantiles, body.horizon)


def decode_create(model: BodySpec, body: SessionCreate, settings: Settings) -> CreateRequest:
    """What a `POST /v1/sessions` asks for."""
    history, start_s = None, decode_time(model, body.start, "body")
    if body.history is not None:
        history, history_start_s = _decode_instance(model, body.history, "history")
        if start_s is not None and history_start_s not in (None, start_s):
            raise InvalidInputError("start and history.start differ: give one of them")
        start_s = history_start_s if start_s is None else start_s
    if start_s is None and model.uses_time:
        raise InvalidInputError(
            f'model {model.name!r} uses the time of each row: expected "start", the time of the'
            ' first row, such as "2016-08-29"; got none'
        )
    ttl_s = settings.default_ttl_s if body.ttl_s is None else body.ttl_s
    for name, value, most in (
        ("ttl_s", ttl_s, settings.max_ttl_s),
        ("replay", body.replay, limits.MAX_REPLAY),
        ("checkpoints", body.checkpoints, limits.MAX_CHECKPOINTS),
        ("keep_observations", body.keep_observations, limits.MAX_KEEP_OBSERVATIONS),
    ):
        if value > most:
            raise InvalidInputError(f"{name} is {value:.15g}: expected at most {most:.15g}")
    if body.keep_observations and model.tensors is not None:
        raise InvalidInputError(
            f"keep_observations is {body.keep_observations}, and model {model.name!r} reads"
            " tensors, which are not kept: expected 0"
        )
    keeps = None
    if body.checkpoints or body.keep_observations:
        keeps = HistoryPolicy(body.checkpoints, body.checkpoint_every, body.keep_observations)
    return CreateRequest(
        model=model.name,
        version=body.version,
        ttl_s=ttl_s,
        ring_size=body.replay,
        start_s=start_s,
        history=history,
        metadata=body.metadata or None,
        resumes=body.if_exists == "resume",
        keeps=keeps,
    )


def decode_step(model: BodySpec, body: Observed, where: str = "body") -> StepRequest:
    """What a step or a preview asks for; `where` locates it in its request."""
    final = isinstance(body, StepBody) and body.final
    observations, emit = _observations(model, body, final, where), body.emit
    if model.tags and observations.num_observed > 1:
        emit = "all"
    if emit == "all" and observations.text is None:
        _bound_reply(model, observations.num_observed)
    return StepRequest(observations, body.step, emit, not isinstance(body, StepBody))


def decode_time(model: BodySpec, time: datetime | None, where: str) -> int | None:
    """RFC 3339 → whole seconds since the epoch; a time without a zone is UTC."""
    if time is None:
        return None
    aware = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    seconds = int(aware.timestamp())
    require_start(model.name, model.frequency_s, seconds, f"{where}: start {time.isoformat()}")
    return seconds


def require_start(model: str, frequency_s: int, start_s: int, what: str) -> None:
    """Refuse a time that no series of the model begins at; `what` names it."""
    if abs(start_s) > NANOSECOND_RANGE_S:
        raise InvalidInputError(f"{what} lies outside 1824 to 2116")
    if frequency_s and frequency_s % _DAY_S == 0 and start_s % _DAY_S:
        midnight = datetime.fromtimestamp(start_s - start_s % _DAY_S, UTC)
        raise InvalidInputError(
            f"{what} is not midnight UTC, and the rows of model {model!r} are whole days: expected"
            f" a date, such as {midnight.date()} ({int(midnight.timestamp())} s)"
        )


def _decode_asked(
    model: BodySpec, instance: Instance, where: str
) -> tuple[Observations, int | None]:
    """An instance to be answered, where a history would only be read."""
    if model.writes:
        return decode_prompt(model.columns, instance, where), None
    return _decode_instance(model, instance, where)


def _decode_instance(
    model: BodySpec, instance: Instance, where: str
) -> tuple[Observations, int | None]:
    refuse_writing(model.name, instance, where)
    observations = _observations(model, instance, False, where)
    return observations, decode_time(model, instance.start, where)


def _observations(
    model: BodySpec, body: Observed | Instance, final: bool, where: str
) -> Observations:
    rows, text = body.observations, body.text
    kinds = (("text", text), ("observations", rows), ("tensors", body.tensors))
    given = [name for name, value in kinds if value is not None]
    if model.writes and model.columns is not None and given in _OF_VECTORS:
        _bound(len(text or ""), limits.MAX_TEXT_CHARS, f"{where}.text", "characters")
        return read_vector(model.columns, rows, text, where)._replace(final=final)
    if given != [model.wanted]:
        raise InvalidInputError(
            f'{where}: model {model.name!r} reads "{model.wanted}": expected it alone, got'
            f" {' and '.join(given) or 'neither'}"
        )
    if final and text is None:
        raise InvalidInputError(f'{where}: "final" ends a text; close this session with DELETE')
    if body.tensors is not None and model.tensors is not None:
        packed, constants = read_tensors(model.tensors, body.tensors, f"{where}.tensors")
        _bound(len(packed), limits.MAX_ROWS, f"{where}.tensors", "observations")
        return Observations(tensors=packed, constants=constants)
    if rows is None or model.columns is None:
        assert text is not None, "exactly one is given"
        _bound(len(text), limits.MAX_TEXT_CHARS, f"{where}.text", "characters")
        return Observations(text=text, final=final)
    if not rows:
        raise InvalidInputError(f"{where}.observations is empty: expected at least one row")
    _bound(len(rows), limits.MAX_ROWS, f"{where}.observations", "rows")
    return Observations(rows=read_rows(model.columns, rows, where))


def _bound_reply(model: BodySpec, num_answers: int) -> None:
    num_bytes = num_answers * model.reply_bytes_per_step
    _bound(num_bytes, limits.MAX_REPLY_BYTES, "the reply", "bytes of outputs")


def _bound(size: int, limit: int, where: str, what: str) -> None:
    if size > limit:
        raise TooLargeError(
            f"{where} has {size} {what}: expected at most {limit}; send it in parts"
        )
