"""Observations as bytes, one by one: how a session keeps its last ones for a replay.

The first byte says what an observation is, so that others can be added.
"""

from collections.abc import Sequence

import numpy as np

from service.engine.requests import Observations

_ROW, _TEXT = b"r", b"t"


def pack_observations(observations: Observations) -> list[bytes]:
    """The bytes of each row, float32, or of the one chunk of text."""
    if observations.rows is None:
        return [_TEXT + (observations.text or "").encode()]
    return [_ROW + row.tobytes() for row in np.ascontiguousarray(observations.rows, "<f4")]


def unpack_observations(packed: Sequence[bytes]) -> Observations:
    """What observations in a row are together: rows `[T, F]`, or a text."""
    kinds = {each[:1] for each in packed}
    if kinds == {_TEXT}:
        return Observations(text="".join(each[1:].decode() for each in packed))
    assert kinds == {_ROW}, "a session is of rows or of text, and an unknown kind is never packed"
    data = b"".join(each[1:] for each in packed)
    return Observations(rows=np.frombuffer(data, "<f4").reshape(len(packed), -1))
