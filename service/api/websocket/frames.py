"""Frames of a WebSocket told apart: plain text goes a fast path, any other frame to the library.

Rule 1: nothing of a frame is judged here but whether it is plain: text, whole (FIN), with no
        reserved bit. Any other is handed on as it came, for the library to read or to refuse.
Rule 2: a frame is handed on when all of it is there; one that is not masked, or announces more than
        `max_bytes`, at once, with whatever follows: the library refuses it by its head.
Rule 3: so no more is held here than one frame and one read of the socket, and a frame whose bytes
        trickle in is put together once.
"""

from collections.abc import Iterator

from websockets.frames import apply_mask  # type: ignore[attr-defined]  # the fastest there is

_PLAIN = 0x81  # FIN and text
_MASKED, _SIZE = 0x80, 0x7F
_TWO_BYTES, _EIGHT_BYTES = 126, 127  # in place of a size: how long the size is that follows


class Frames:
    """Cuts what a client sends into frames, from a boundary of frames on."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()
        self._num_wanted = 0

    def cut(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """The frames that are whole now, in order; where the text of a plain one begins, else 0."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._num_wanted:
                return
            data = bytes(self._rest)
            self._rest.clear()
        at, end = 0, len(data)
        while at < end:
            after = at + 2
            if after <= end:
                marks, size, start = data[at + 1], data[at + 1] & _SIZE, at + 6
                if size >= _TWO_BYTES:
                    start += 2 if size == _TWO_BYTES else 8
                    size = int.from_bytes(data[at + 2 : start - 4], "big") if start <= end else 0
                if not marks & _MASKED or size > self._max_bytes:
                    yield data[at:], 0
                    return
                after = start + size
            if after > end:
                self._rest += data[at:]
                self._num_wanted = after - at
                return
            yield data[at:after], start - at if data[at] == _PLAIN else 0
            at = after


def text_of(frame: bytes, start: int) -> bytes:
    """The text of a plain frame, unmasked."""
    return apply_mask(frame[start:], frame[start - 4 : start])


def text_head(num_bytes: int) -> bytes:
    """What a server sends before a text of as many bytes."""
    if num_bytes < _TWO_BYTES:
        return bytes((_PLAIN, num_bytes))
    if num_bytes < 1 << 16:
        return bytes((_PLAIN, _TWO_BYTES, num_bytes >> 8, num_bytes & 0xFF))
    return bytes((_PLAIN, _EIGHT_BYTES)) + num_bytes.to_bytes(8, "big")
