"""Bodies of `generate` and `generate_stream`: JSON alone.

Nothing here knows the web framework: big bodies are read in a process of their own.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
from pydantic import ValidationError

from service.api.codec.generation import require_short, sampling_of
from service.api.codec.schemas import Written
from service.api.codec.tensors import array_of
from service.engine.session.requests import Observations
from service.errors import InvalidInputError, MalformedError
from service.wordings import case

if TYPE_CHECKING:  # the process that reads big bodies imports no runtime for models
    from service.engine.models.loaded_model import LoadedModel

_SAMPLING: Final = tuple(Written.model_fields)
_SEQUENCE: Final = ("sequence_id", "sequence_start", "sequence_end", "sequence_step")
_KNOWN: Final = (*_SAMPLING, "stream", *_SEQUENCE)


@dataclass(slots=True)
class GenerateRequest:
    """`sequence` holds the parameters that name one; `others` what only a model can tell: the
    vector that it writes about, or nothing that it knows."""

    id: str | None
    text: str
    written: Written
    stream: bool | None
    sequence: dict[str, Any]
    others: dict[str, Any]

    def refuse_stream_flag(self, *, is_stream: bool) -> None:
        """Raise InvalidInputError where the parameter `stream` asks for the other path."""
        if self.stream is not None and self.stream != is_stream:
            path = "generate_stream" if self.stream else "generate"
            raise InvalidInputError(
                f"stream is {str(self.stream).lower()}: expected it on POST …/{path}, or without"
            )

    def observations_for(self, model: "LoadedModel") -> Observations:
        """What the model reads, and how it is to write on.

        Raises:
            CarryError: it does not write, or reads or knows something else.
        """
        if model.manifest.generate is None:
            raise InvalidInputError(case("model-writes-not", model=model.name))
        require_short(self.text, "text_input")
        sampling = sampling_of(self.written, "parameters")
        others, rows = dict(self.others), None
        if model.reads_vectors and model.x is not None and model.x.name in others:
            rows = _vector(model.x.name, others.pop(model.x.name), model.num_values)
        if others:
            inputs = ["text_input", *([model.x.name] if model.reads_vectors and model.x else [])]
            raise InvalidInputError(
                f"unexpected {sorted(others)[:9]}: expected the inputs {inputs} and the parameters"
                f" {list(_KNOWN)}"
            )
        return Observations(rows=rows, text=self.text, sampling=sampling)


def read_generate(data: bytes, json_bytes: int | None) -> GenerateRequest:
    """A request's body.

    Raises:
        CarryError: it is not JSON, or one of its members is of the wrong kind.
    """
    try:
        body = orjson.loads(data[:json_bytes])
    except orjson.JSONDecodeError as error:
        raise MalformedError(f"the body is not valid JSON ({error}): expected an object") from None
    if not isinstance(body, dict):
        raise MalformedError('the body is not an object: expected {"text_input": "…"}')
    given, parameters = dict(body), body.get("parameters")
    wanted_id, text = given.pop("id", None), given.pop("text_input", "")
    given.pop("parameters", None)
    if not isinstance(wanted_id, str | None):
        raise MalformedError(f"id is {str(wanted_id)[:40]!r}: expected a string")
    if not isinstance(text, str):
        raise InvalidInputError(f"text_input is {str(text)[:40]!r}: expected a string")
    if not isinstance(parameters, dict | None):
        raise MalformedError('"parameters" of the request is not an object')
    if twice := sorted(set(given) & set(parameters or {})):
        raise InvalidInputError(f'{twice[:9]} stand in "parameters" and beside it: expected once')
    given |= parameters or {}
    stream = given.pop("stream", None)
    if not isinstance(stream, bool | None):
        raise InvalidInputError(f"stream is {str(stream)[:20]!r}: expected true or false")
    written = _written({name: given.pop(name) for name in _SAMPLING if name in given})
    told = {name: given.pop(name) for name in _SEQUENCE if name in given}
    return GenerateRequest(wanted_id, text, written, stream, told, given)


def _written(given: dict[str, Any]) -> Written:
    try:
        return Written.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = problem["loc"][0]
        raise InvalidInputError(
            f"parameter {name} is {str(given.get(str(name)))[:40]!r}: {problem['msg']}"
        ) from None


def _vector(name: str, values: Any, num_values: int) -> np.ndarray:  # noqa: ANN401 -- JSON
    where = f"input {name!r}"
    vector = array_of(values, "float32", where).reshape(-1)
    if vector.size != num_values:
        raise InvalidInputError(f"{where} has {vector.size} values: expected {num_values}")
    return vector[None]
