"""The `Idempotency-Key` header: a client's own name for a request, so that a retry is known as one.

Rule 1: a step that names its `step` needs no key; one that does not is kept under its key, in the
        session's reply ring.
Rule 2: a session that is opened or forked without a name is named by the key, so the same key opens
        the same session; with a name, the name alone counts.
Rule 3: only a digest of the key is kept.
Rule 4: where many requests come at once (bulks, WebSockets) there is no header for each: it is
        refused, rather than passed over, and each names its `step`.
"""

from base64 import urlsafe_b64encode
from hashlib import blake2b
from typing import Annotated

from fastapi import Header

from service.errors import InvalidInputError

IDEMPOTENCY_KEY = "Idempotency-Key"
_MAX_CHARS = 255

InHeader = Annotated[
    str | None,
    Header(
        alias=IDEMPOTENCY_KEY,
        description="A name of the client's choice for this request, at most 255 visible"
        " characters: the same request again is answered and not applied again.",
    ),
]


def digest_of_key(header: str | None) -> bytes | None:
    """What is kept of a key.

    Raises:
        InvalidInputError: it is empty, too long, or holds what cannot be seen.
    """
    if header is None:
        return None
    is_visible = header.isascii() and header.isprintable()
    if not header.strip() or len(header) > _MAX_CHARS or not is_visible:
        raise InvalidInputError(
            f"{IDEMPOTENCY_KEY} has {len(header)} characters: expected 1 to {_MAX_CHARS} visible"
            " ASCII characters, such as a UUID"
        )
    return blake2b(header.encode(), digest_size=16, person=b"idempotency-key").digest()


def name_by_key(header: str | None) -> str | None:
    """The name of a session that is opened under a key; None without one."""
    key = digest_of_key(header)
    return None if key is None else "key-" + urlsafe_b64encode(key).rstrip(b"=").decode()


def refuse_key(door: str, *, is_given: bool) -> None:
    """Raise InvalidInputError where a key comes with many requests: it could name none of them."""
    if is_given:
        raise InvalidInputError(
            f"{IDEMPOTENCY_KEY} came with {door}, which carries many requests: leave it out, and"
            " name the `step` of each, so that it is applied exactly once"
        )
