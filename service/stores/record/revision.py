"""Revisions: fresh random tokens. Two records with the same one are the same record."""

import os
import secrets
from collections.abc import Iterator

REVISION_BYTES = 16
_revisions: Iterator[bytes] = iter(())


def new_revision() -> bytes:
    """A fresh random token.

    The system is asked for many at once: asking costs more than anything else in a step.
    """
    global _revisions
    revision = next(_revisions, None)
    if revision is None:
        data = secrets.token_bytes(256 * REVISION_BYTES)
        places = range(0, len(data), REVISION_BYTES)
        _revisions = iter([data[place : place + REVISION_BYTES] for place in places])
        revision = next(_revisions)
    return revision


def _forget_revisions() -> None:
    """A forked process must not hand out the tokens of its parent."""
    global _revisions
    _revisions = iter(())


os.register_at_fork(after_in_child=_forget_revisions)
