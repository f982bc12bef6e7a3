"""Revisions: fresh random tokens. Two records with the same revision are the same record."""

import os
import secrets
from collections.abc import Iterator

REVISION_BYTES = 16
_revisions: Iterator[bytes] = iter(())


def new_revision() -> bytes:
    """A fresh random token.

    Random bytes are requested for 256 tokens at once, because the system call is expensive.
    """
    global _revisions
    revision = next(_revisions, None)
    if revision is None:
        data = secrets.token_bytes(256 * REVISION_BYTES)
        starts = range(0, len(data), REVISION_BYTES)
        _revisions = iter([data[start : start + REVISION_BYTES] for start in starts])
        revision = next(_revisions)
    return revision


def _forget_revisions() -> None:
    """A forked process must not use the tokens of its parent."""
    global _revisions
    _revisions = iter(())


os.register_at_fork(after_in_child=_forget_revisions)
