"""From observations to the inputs of a graph, given where the session stands.

This is the one place that knows what the roles of inputs mean for the past of a session: the time
of its next row, and the text whose tokens are not certain yet.
"""

from typing import Literal, NamedTuple

import numpy as np

from service.contract.errors import TextError
from service.contract.text import TextCursor
from service.engine.job import Segment
from service.engine.registry import LoadedModel
from service.engine.requests import Observations
from service.errors import InvalidInputError

_UNREAD = TextCursor()
_LAST_TIME_S = 253_402_300_799
"""The end of the year 9999, the last that RFC 3339 can write."""


class Past(NamedTuple):
    """Where a session stands: the time of its row 0, its observations so far, its text so far."""

    start_s: int | None
    step: int = 0
    cursor: TextCursor = _UNREAD


class Work(NamedTuple):
    """Segments to run from the record's state, and the record's text position behind them."""

    segments: list[Segment]
    cursor: TextCursor


def work_for(
    model: LoadedModel,
    past: Past,
    observations: Observations,
    emit: Literal["last", "all"],
) -> Work:
    """What `observations` are for a graph, coming after `past`.

    Raises:
        InvalidInputError: rows for a model of text or the reverse, or text that is no text.
    """
    if model.codec is not None:
        return _text_work(model, past.cursor, observations)
    if observations.rows is None:
        raise InvalidInputError(
            f'model {model.name!r} reads rows: expected "observations", got "text"'
        )
    return Work([_rows_segment(model, past, observations.rows, emit)], past.cursor)


def row_time_s(model: LoadedModel, start_s: int, step: int) -> int:
    """The time of row `step` (from 0) of a series that begins at `start_s`."""
    return start_s + step * model.frequency_s


def _rows_segment(
    model: LoadedModel, past: Past, rows: np.ndarray, emit: Literal["last", "all"]
) -> Segment:
    inputs = {}
    x, time = model.x, model.time
    if x is not None:
        if rows.shape[1] != x.shape[-1]:
            raise InvalidInputError(
                f"rows have {rows.shape[1]} values, model {model.name!r} reads {x.shape[-1]}"
            )
        inputs[x.name] = rows.astype(x.dtype, copy=False)
    if time is not None:
        if past.start_s is None:
            raise InvalidInputError(
                f'model {model.name!r} uses the time of each row: expected "start", the time of'
                ' the first row, such as "2016-08-29"'
            )
        first = row_time_s(model, past.start_s, past.step)
        if row_time_s(model, first, len(rows)) > _LAST_TIME_S:
            raise InvalidInputError(
                f"row {past.step + len(rows)} of the session lies past the year 9999: expected an"
                " earlier start or fewer rows"
            )
        inputs[time.name] = first + model.frequency_s * np.arange(len(rows), dtype=time.dtype)
    return Segment(inputs, len(rows), emit)


def _text_work(model: LoadedModel, cursor: TextCursor, observations: Observations) -> Work:
    if model.codec is None or observations.text is None:
        raise InvalidInputError(
            f'model {model.name!r} reads text: expected "text", got "observations"'
        )
    try:
        fed = model.codec.feed(cursor, observations.text)
    except TextError as error:
        raise InvalidInputError(str(error)) from None
    if observations.final:
        certain = fed.certain + fed.tail
        return Work([_tokens_segment(model, certain, "last", keeps_state=True)], fed.cursor)
    segments = [_tokens_segment(model, fed.certain, "none", keeps_state=True)]
    segments.append(_tokens_segment(model, fed.tail, "last", keeps_state=False))
    return Work([segment for segment in segments if segment.num_steps], fed.cursor)


def _tokens_segment(
    model: LoadedModel, tokens: list[int], emit: Literal["none", "last"], *, keeps_state: bool
) -> Segment:
    spec = model.tokens
    assert spec is not None, "the manifest of a model of text has an input with role 'tokens'"
    return Segment({spec.name: np.array(tokens, spec.dtype)}, len(tokens), emit, keeps_state)
