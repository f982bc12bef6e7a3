"""What became of writes whose answer was lost: the store is asked until it says.

Rule 1: the revision tells. Where it is that of the write, the write is kept. Where it is still that
        of the base, it is not, and the very same compare-and-swap is tried again: should the first
        one arrive late, only one of the two can win. Where it is another's, the race is lost, and
        the task is decided anew, which finds its own reply if it had been kept before.
Rule 2: a creation that is not found is tried again as well; what may lie there refuses it.
Rule 3: it ends within `patience_s`, and one call of the store. What is not known then stays so: the
        client is told, and repeats its request with its step.
Rule 4: a store that did not answer in time has had its time: it is not asked again for that write.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from service.errors import CarryError, OutcomeUnknownError, StoreUnavailableError
from service.stores.base import Store, Write, WritesFailedError
from service.stores.record.record import Key, Record, revision_of
from service.wordings import case

Outcome = Record | CarryError | None

_FIRST_PAUSE_S: Final = 0.02
_LAST_PAUSE_S: Final = 0.5


async def read_back(
    store: Store, writes: Sequence[Write], outcomes: Sequence[Outcome], patience_s: float
) -> list[Outcome]:
    """The outcomes, with those that are not known asked for; other errors stay as they are."""
    known = list(outcomes)
    give_up_at = time.monotonic() + patience_s
    pause_s = _FIRST_PAUSE_S
    while unknown := _unknown_of(known):
        await _ask(store, writes, known, unknown)
        if time.monotonic() + pause_s > give_up_at:
            break
        if _unknown_of(known):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_PAUSE_S)
    return known


async def _ask(
    store: Store, writes: Sequence[Write], known: list[Outcome], unknown: list[int]
) -> None:
    found = await asyncio.gather(*(_load(store, writes[at]) for at in unknown))
    again = []
    for at, there in zip(unknown, found, strict=True):
        header, data, base = writes[at]
        if isinstance(there, StoreUnavailableError):
            if there.is_silent:
                known[at] = _given_up(there)
            continue
        if isinstance(there, CarryError):
            known[at] = there
        elif there is not None and there.revision == revision_of(data):
            known[at] = Record(header, data, there.expires_at, there.rowid)
        elif base is None or (there is not None and there.revision == base.revision):
            again.append(at)
        else:
            known[at] = None
    if not again:
        return
    try:
        outcomes: Sequence[Outcome] = await store.commit([writes[at] for at in again])
    except WritesFailedError as error:
        outcomes = error.outcomes
    except StoreUnavailableError:
        return
    for at, outcome in zip(again, outcomes, strict=True):
        # Refused now, it still may have been kept before: not known, until the store says.
        if not isinstance(outcome, StoreUnavailableError):
            known[at] = outcome
        elif outcome.is_silent:
            known[at] = _given_up(outcome)


async def _load(store: Store, write: Write) -> Outcome:
    header = write[0]
    try:
        return await store.load(Key(header.tenant, header.name))
    except CarryError as error:
        return error


def _unknown_of(known: Sequence[Outcome]) -> list[int]:
    """Places of those that are still asked for."""
    return [
        at
        for at, each in enumerate(known)
        if isinstance(each, OutcomeUnknownError) and not each.is_silent
    ]


def _given_up(error: StoreUnavailableError) -> OutcomeUnknownError:
    given_up = OutcomeUnknownError(
        case("outcome-unknown", what="the session store's answer was lost, and it does not answer"),
        retry_after_s=error.retry_after_s,
    )
    given_up.is_silent = True
    return given_up
