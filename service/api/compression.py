"""Bodies that come or go compressed: gzip and deflate, bounded on the way in."""

import gzip
import zlib

from service.errors import MalformedError, TooLargeError, UnsupportedMediaTypeError

_WINDOW_BITS = {"gzip": 31, "deflate": 15}
_LEAST_BYTES = 256
"""Shorter answers are not worth it."""


def inflate(data: bytes, encoding: str, max_bytes: int) -> bytes:
    """What a body is, however far it would unfold.

    Raises:
        CarryError: an encoding that is not known, data that is not in it, or more than may be.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return data
    if name not in _WINDOW_BITS:
        raise UnsupportedMediaTypeError(
            f"Content-Encoding is {name[:40]!r}: expected gzip, deflate or none"
        )
    unfold = zlib.decompressobj(_WINDOW_BITS[name])
    try:
        body = unfold.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise MalformedError(f"the body is no {name} ({error})") from None
    if len(body) > max_bytes:
        raise TooLargeError(f"the body unfolds to more than {max_bytes} bytes: send it in parts")
    if not unfold.eof or unfold.unused_data:
        raise MalformedError(f"the body is cut short, or more than one {name} stream")
    return body


def deflate(data: bytes, accepted: str) -> tuple[bytes, str]:
    """An answer in the first encoding that the client takes, and its name; "" as it is."""
    offered = [part.split(";")[0].strip().lower() for part in accepted.split(",")]
    if len(data) < _LEAST_BYTES:
        return data, ""
    if "gzip" in offered:
        return gzip.compress(data, 1, mtime=0), "gzip"
    if "deflate" in offered:
        return zlib.compress(data, 1), "deflate"
    return data, ""
