"""Bodies that come or go compressed: gzip and deflate, bounded on the way in."""

import gzip
import zlib

from service.errors import EncodingRefusedError, MalformedError, TooLargeError

_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
ACCEPTED = "gzip, deflate"
"""What a body may be compressed by; x-gzip is gzip by its older name (RFC 9110 §8.4.1.3)."""
_LEAST_BYTES = 256
"""Shorter answers are not worth it."""


def inflate(data: bytes, encoding: str, max_bytes: int) -> bytes:
    """What a body is, however far it would unfold.

    Raises:
        CarryError: an encoding that is not known, data that is not in it, or more than may be.
    """
    names = [each.strip().lower() for each in encoding.split(",")]
    names = [each for each in names if each not in ("", "identity")]
    if not names:
        return data
    name = names[0]
    if len(names) > 1 or name not in _WINDOW_BITS:
        raise EncodingRefusedError(
            f"Content-Encoding is {encoding[:60]!r}: expected gzip, deflate or none", ACCEPTED
        )
    unfold = zlib.decompressobj(_WINDOW_BITS[name])
    try:
        body = unfold.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise MalformedError(f"the body is not valid {name} ({error})") from None
    if len(body) > max_bytes:
        raise TooLargeError(f"the body unfolds to more than {max_bytes} bytes: send it in parts")
    if not unfold.eof or unfold.unused_data:
        raise MalformedError(f"the body is cut short, or more than one {name} stream")
    return body


def deflate(data: bytes, accepted: str) -> tuple[bytes, str]:
    """An answer in the encoding that the client likes best, and its name; "" as it is."""
    if not accepted or len(data) < _LEAST_BYTES:
        return data, ""
    name = _liked_best(accepted)
    if name == "deflate":
        return zlib.compress(data, 1), name
    return (gzip.compress(data, 1, mtime=0) if name else data), name


def _liked_best(accepted: str) -> str:
    """Of gzip and deflate the one of the greatest weight, as the client calls it; "" if neither.

    A weight of 0 refuses (RFC 9110 §12.4.2); what has no readable weight counts as 1.
    """
    best, most = "", 0.0
    parts = [part.partition(";") for part in accepted.lower().split(",")]
    weights = {name.strip(): _weight_of(parameters) for name, _, parameters in parts}
    for name, weight in weights.items():
        if name == "*" and not {"gzip", "x-gzip"} & set(weights):
            name = "gzip"
        if name in _WINDOW_BITS and weight > most:
            best, most = name, weight
    return best


def _weight_of(parameters: str) -> float:
    name, _, value = parameters.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 1.0
