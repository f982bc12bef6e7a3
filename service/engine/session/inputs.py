"""From observations to the inputs of a graph, for a session at a given step.

Only this module knows what the roles of inputs mean for the past of a session: the time of its next
row, and the text whose tokens are not certain yet.
"""

from typing import Literal

import numpy as np

from service.contract.characters import CharacterCodec, Codec
from service.contract.errors import TextError, TokenizerError
from service.contract.text import UNREAD, FedText, TextCursor
from service.engine.graph.sampler import Sampler, Sampling
from service.engine.graph.vector_runner import step_of_vector
from service.engine.inference.job import Job, Segment
from service.engine.models.loaded_model import LoadedModel
from service.engine.session.requests import Observations
from service.errors import InvalidInputError, ModelFailedError
from service.wordings import case

_LAST_TIME_S = 253_402_300_799
"""The end of the year 9999, the last that RFC 3339 can write."""


def feed(
    job: Job,
    model: LoadedModel,
    start_s: int | None,
    step: int,
    cursor: TextCursor,
    state: bytes,
    observations: Observations,
    emit: Literal["last", "all"],
) -> TextCursor:
    """Give `job` the graph's inputs for `observations`; return how far the text has been read.

    The session is at `step`; its first observation was at `start_s`.

    Raises:
        InvalidInputError: rows for a model of text or the reverse, invalid text, or no
            vector for a model that generates text about one.
        ModelFailedError: the model's tokenizer fails on the text.
    """
    vector: list[Segment] = []
    if model.reads_vectors:
        if observations.rows is not None:
            vector = [_vector_segment(model, observations.rows)]
            cursor, state = UNREAD, _start(model)
        elif state == _start(model):
            raise InvalidInputError(
                case(
                    "vector-expected",
                    model=model.name,
                    input=_input_name(model),
                    expected=model.num_values,
                )
            )
    if observations.sampling is not None:
        sampler, read, cursor = _sampling(model, step, cursor, observations, observations.sampling)
        job.feed([*vector, read], state, sampler)
        return cursor
    if model.codec is not None:
        segments, cursor = _text_segments(model, cursor, observations)
        job.feed([*vector, *segments], state)
        return cursor
    rows = observations.rows
    if rows is None or model.observations is not None:
        _feed_tensors(job, model, observations, emit, state)
        return cursor
    num_steps, num_values = rows.shape
    if num_values != model.num_values:
        raise InvalidInputError(
            case(
                "rows-of-other-width",
                model=model.name,
                input=_input_name(model),
                num_values=num_values,
                expected=model.num_values,
            )
        )
    first_s = 0 if model.time is None else first_time_s(model, start_s, step, num_steps)
    if observations.time_s not in (None, first_s):
        raise InvalidInputError(
            case(
                "time-unfit",
                input=_time_name(model),
                time_s=observations.time_s,
                expected_s=first_s,
                row=step,
            )
        )
    job.feed_rows(rows, emit, first_s, state)
    return cursor


def _feed_tensors(
    job: Job,
    model: LoadedModel,
    observations: Observations,
    emit: Literal["last", "all"],
    state: bytes,
) -> None:
    layout, packed = model.observations, observations.tensors
    if layout is None:
        raise InvalidInputError(case("rows-expected", model=model.name, input=_input_name(model)))
    if packed is None or packed.shape[1] != layout.observation.itemsize:
        names = ", ".join(spec.name for spec in layout.tensors)
        raise InvalidInputError(case("tensors-expected", model=model.name, names=names))
    job.constants = observations.constants
    job.feed_rows(packed, emit, 0, state)


def row_time_s(model: LoadedModel, start_s: int, step: int) -> int:
    """The time of row `step` (from 0) of a series that starts at `start_s`."""
    return start_s + step * model.frequency_s


def first_time_s(model: LoadedModel, start_s: int | None, step: int, num_steps: int) -> int:
    """The time of the next row of a session, the first of `num_steps` rows.

    Raises:
        InvalidInputError: the session has no start, or the rows are past the last calendar year.
    """
    if start_s is None:
        raise InvalidInputError(case("start-expected", model=model.name, input=_time_name(model)))
    first_s = row_time_s(model, start_s, step)
    if row_time_s(model, first_s, num_steps) > _LAST_TIME_S:
        raise InvalidInputError(case("time-beyond", input=_time_name(model), row=step + num_steps))
    return first_s


def _input_name(model: LoadedModel) -> str:
    """The name of the graph's input for rows."""
    return "x" if model.x is None else model.x.name


def _time_name(model: LoadedModel) -> str:
    """The name of the graph's input for the time of each row."""
    return "time" if model.time is None else model.time.name


def _start(model: LoadedModel) -> bytes:
    """The state of a session that has read nothing. A vector always starts from it."""
    return model.layout.initial_row


def _vector_segment(model: LoadedModel, rows: np.ndarray) -> Segment:
    if rows.shape != (1, model.num_values) or not np.isfinite(rows).all():
        raise InvalidInputError(
            case(
                "vector-unfit",
                model=model.name,
                input=_input_name(model),
                expected=model.num_values,
                num_rows=len(rows),
                num_values=rows.shape[1],
            )
        )
    return Segment(step_of_vector(rows[0]), 1, "none")


def _sampling(
    model: LoadedModel,
    step: int,
    cursor: TextCursor,
    observations: Observations,
    sampling: Sampling,
) -> tuple[Sampler, Segment, TextCursor]:
    """The sampler, and the segment to read before it starts."""
    if not isinstance(model.codec, CharacterCodec):
        raise InvalidInputError(
            f"model {model.name!r} does not write: expected a model with the task 'generate'"
        )
    fed = _read_text(model, model.codec, cursor, observations.text or "")
    layout, name = model.runner.outputs, model.manifest.graph.outputs[0].name
    sampler = Sampler(
        model.codec,
        sampling,
        step,
        fed.cursor,
        lambda outputs: layout.unpack(outputs)[name][0],
        model.steps_of,
    )
    # Its state is kept: generated characters follow.
    read = _tokens_segment(model, fed.certain + fed.tail, "last", keeps_state=True)
    return sampler, read, fed.cursor


def _read_text(model: LoadedModel, codec: Codec, cursor: TextCursor, text: str) -> FedText:
    try:
        return codec.feed(cursor, text)
    except TextError as error:
        raise InvalidInputError(str(error)) from None
    except TokenizerError as error:
        raise ModelFailedError(
            f"model {model.name!r} version {model.version} failed on this text, and nothing"
            " was applied: send other text, or load another version"
        ) from error


def _text_segments(
    model: LoadedModel, cursor: TextCursor, observations: Observations
) -> tuple[list[Segment], TextCursor]:
    if model.codec is None or observations.text is None:
        raise InvalidInputError(case("text-expected", model=model.name))
    fed = _read_text(model, model.codec, cursor, observations.text)
    if observations.final:
        certain = fed.certain + fed.tail
        return [_tokens_segment(model, certain, "last", keeps_state=True)], fed.cursor
    if not fed.cursor.num_tokens:  # a placeholder for an empty text changes no state
        read = _tokens_segment(model, fed.certain + fed.tail, "last", keeps_state=False)
        return [read], fed.cursor
    segments = [_tokens_segment(model, fed.certain, "none", keeps_state=True)]
    segments.append(_tokens_segment(model, fed.tail, "last", keeps_state=False))
    return [segment for segment in segments if segment.num_steps], fed.cursor


def _tokens_segment(
    model: LoadedModel, tokens: list[int], emit: Literal["none", "last"], *, keeps_state: bool
) -> Segment:
    return Segment(model.steps_of(tokens), len(tokens), emit, keeps_state=keeps_state)
