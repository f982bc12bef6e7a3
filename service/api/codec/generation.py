"""What is asked of models that write, decoded; and what they wrote, as JSON."""

from typing import TYPE_CHECKING

import numpy as np

from service.api import limits
from service.api.codec.rows import read_vector
from service.api.codec.schemas import GenerateBody, Instance, Written
from service.contract.characters import GenerateSpec
from service.contract.sampling import probabilities
from service.engine.graph.sampler import Listener, Sampling
from service.engine.session.requests import Observations, StepRequest
from service.errors import InvalidInputError, TooLargeError
from service.stores.record.record import PackedOutputs
from service.wordings import case

if TYPE_CHECKING:  # the process that reads big bodies imports no runtime for models
    from service.engine.models.loaded_model import LoadedModel

DEFAULT_TOKENS = 100
"""Characters that are written where a client does not say how many."""
_SHOWN = 5


def decode_prompt(columns: tuple[str, ...] | None, instance: Instance, where: str) -> Observations:
    """An instance of `POST …/predict`: its prompt, which may be absent, is written on.

    Models with `columns` write about a row of them, which stands before the prompt.
    """
    others = instance.tensors, instance.text and instance.prompt
    if any(each is not None and each != "" for each in others):
        raise InvalidInputError(f'{where}: a model that writes reads "prompt": expected it alone')
    text = instance.prompt or instance.text or ""
    require_short(text, f"{where}.prompt")
    sampling = sampling_of(instance, where)
    return _about(columns, instance, text, where)._replace(sampling=sampling)


def decode_generate(
    model: "LoadedModel", body: GenerateBody, listener: Listener | None
) -> StepRequest:
    """A `POST …/generate`.

    Raises:
        InvalidInputError: the session's model does not write.
    """
    spec = model.manifest.generate
    if spec is None:
        raise InvalidInputError(case("model-writes-not", model=model.name))
    text = body.text or ""
    require_short(text, "body.text")
    sampling = sampling_of(body, "body")._replace(listener=listener)
    observed = _about(spec.columns, body, text, "body")._replace(sampling=sampling)
    return StepRequest(observed, body.step)


def _about(
    columns: tuple[str, ...] | None, asked: Instance | GenerateBody, text: str, where: str
) -> Observations:
    if columns is None and asked.observations is not None:
        raise InvalidInputError(
            f'{where}: the model reads "prompt" or "text": expected no "observations"'
        )
    return read_vector(columns or (), asked.observations, text, where)


def refuse_writing(model: str, instance: Instance, where: str) -> None:
    """Raise InvalidInputError where an instance asks a model to write that does not."""
    asked = [name for name in ("prompt", *Written.model_fields) if getattr(instance, name)]
    if asked:
        raise InvalidInputError(f"{where}: model {model!r} does not write: it takes no {asked}")


def split_written(model: "LoadedModel", outputs: PackedOutputs) -> tuple[PackedOutputs, str]:
    """Packed outputs of the last step, and what was written in front of it."""
    size = model.runner.outputs.step_bytes
    return outputs[:size], outputs[size:].decode()


def encode_next(spec: GenerateSpec, logits: np.ndarray) -> dict[str, object]:
    """`logits[V]` → the likeliest next character, and how likely the likeliest few are."""
    shares = probabilities(logits)
    likeliest = np.argsort(-shares, kind="stable")[:_SHOWN].tolist()
    return {
        "next": spec.characters[likeliest[0]],
        "probabilities": {spec.characters[token]: float(shares[token]) for token in likeliest},
    }


def sampling_of(asked: Written, where: str) -> Sampling:
    """How much is to be written, and how it is chosen."""
    max_tokens = DEFAULT_TOKENS if asked.max_tokens is None else asked.max_tokens
    if max_tokens > limits.MAX_TOKENS:
        raise InvalidInputError(
            f"{where}.max_tokens is {max_tokens}: expected at most {limits.MAX_TOKENS}"
        )
    temperature = 1.0 if asked.temperature is None else asked.temperature
    return Sampling(max_tokens, temperature, asked.seed or 0)


def require_short(text: str, where: str) -> None:
    """Raise TooLargeError where a text is longer than one may be."""
    if len(text) > limits.MAX_TEXT_CHARS:
        raise TooLargeError(
            f"{where} has {len(text)} characters: expected at most {limits.MAX_TEXT_CHARS};"
            " send it in parts"
        )
