"""Observations as bytes, one by one: how a session stores its last ones for a replay.

The first byte is the kind of the observation, so that kinds can be added. A vector and the text
after it are one observation: the size of the vector in bytes, the vector, the text.
"""

from collections.abc import Sequence

import numpy as np

from service.engine.session.requests import Observations

_ROW, _TEXT, _VECTOR = b"r", b"t", b"v"
_COUNT_BYTES = 4


def pack_observations(observations: Observations) -> list[bytes]:
    """The bytes of each float32 row, of one chunk of text, or of a vector with its text."""
    text = (observations.text or "").encode()
    if observations.rows is None:
        return [_TEXT + text]
    rows = np.ascontiguousarray(observations.rows, "<f4")
    if observations.text is None:
        return [_ROW + row.tobytes() for row in rows]
    vector = rows.tobytes()
    return [_VECTOR + len(vector).to_bytes(_COUNT_BYTES, "little") + vector + text]


def unpack_observations(packed: Sequence[bytes]) -> Observations:
    """Consecutive observations as one: rows `[T, F]`, a text, or the last vector and its text."""
    kinds = [each[:1] for each in packed]
    if set(kinds) == {_ROW}:
        data = b"".join(each[1:] for each in packed)
        return Observations(rows=np.frombuffer(data, "<f4").reshape(len(packed), -1))
    assert set(kinds) <= {_TEXT, _VECTOR}, "an unknown kind is never packed"
    rows, text = None, ""
    for each in packed:
        if each[:1] == _VECTOR:
            start = 1 + _COUNT_BYTES
            end = start + int.from_bytes(each[1:start], "little")
            rows, text = np.frombuffer(each[start:end], "<f4")[None], each[end:].decode()
        else:
            text += each[1:].decode()
    return Observations(rows=rows, text=text)


def require_sound_observations(packed: Sequence[bytes]) -> None:
    """Raise ValueError unless they can be unpacked together."""
    kinds = {each[:1] for each in packed}
    if not (kinds <= {_ROW} or kinds <= {_TEXT, _VECTOR}):
        raise ValueError("its observations have kinds that cannot be mixed")
    if len({len(each) for each in packed if each[:1] == _ROW}) > 1:
        raise ValueError("its rows have different sizes")
    if packed:
        unpack_observations(packed)
