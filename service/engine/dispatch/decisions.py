"""What a turn's request means, and what it writes: each kind of request finds its rule here."""

import time
from dataclasses import replace

from service.contract.text import NO_TEXT
from service.engine.dispatch.request_task import Turn
from service.engine.models.registry import Registry
from service.engine.session.operations import (
    decide_fork,
    decide_restore,
    decide_rewind,
    decide_upgrade,
    replayed,
)
from service.engine.session.requests import (
    CreateRequest,
    DeleteRequest,
    ForkRequest,
    RestoreRequest,
    RewindRequest,
    StartRequest,
    StepRequest,
    UpgradeRequest,
)
from service.engine.session.rules import (
    Answer,
    Apply,
    Reply,
    closed,
    decide,
    decide_create,
    opened,
    seed_record,
    session_not_found,
    stepped,
)
from service.engine.session.starts import decide_start, opening_seen, started
from service.stores.base import Store
from service.stores.record.record import Opening, Record


async def decide_turn(
    turn: Turn, found: Record | None, store: Store, registry: Registry
) -> Apply | Answer:
    """What becomes of a turn, now that `found` is what the store holds.

    Raises:
        CarryError: the request is refused.
    """
    request, key = turn.request, turn.lane.key
    source = await store.load(request.source) if isinstance(request, ForkRequest) else None
    now = await store.now()
    if isinstance(request, CreateRequest):
        wanted = registry.get(request.model, request.version)
        return decide_create(request, found, seed_record(key, wanted, request, time.time()), now)
    if isinstance(request, StartRequest):
        return _decide_start(turn, request, found, registry, now)
    if isinstance(request, ForkRequest):
        forked = source and registry.find(source.opening.model, source.opening.version)
        return decide_fork(request, key, found, source, forked, now)
    if isinstance(request, RewindRequest):
        return decide_rewind(request, key, found, now)
    if isinstance(request, RestoreRequest):
        opening = request.sealed.opening
        model = registry.find(opening.model, opening.version)
        return decide_restore(request, key, found, model, now)
    if isinstance(request, UpgradeRequest):
        if found is None:
            raise session_not_found(key)
        opening = found.opening
        old = registry.find_for_session(opening) or registry.find(opening.model, opening.version)
        new = registry.get(opening.model, request.version)
        return decide_upgrade(request, key, found, old, new, now)
    return decide(request, key, found, now)


def _decide_start(
    turn: Turn, request: StartRequest, found: Record | None, registry: Registry, now: float
) -> Apply | Answer:
    if not turn.num_lost_races:
        turn.seen = None
    wanted = registry.get(request.opening.model, request.opening.version)
    opening = replace(request.opening, known_digest=request.digest)
    seed = seed_record(turn.lane.key, wanted, opening, request.asked_at)
    decision = decide_start(request, found, seed, turn.seen, now)
    if turn.seen is None:
        turn.seen = opening_seen(found, now)
    if decision is None:  # it has run already: that is how it lost the race
        num_observed = request.observations.num_observed
        return Answer(Reply(turn.base, num_observed, turn.outputs, is_new=True))
    return decision


def written(turn: Turn, state: bytes) -> tuple[Opening, bytes]:
    """What follows the turn's base, where the graph came to `state`."""
    request, base, now = turn.request, turn.base, time.time()
    if isinstance(request, StepRequest):
        if not turn.is_simple and turn.cursor is not NO_TEXT and turn.writer is not None:
            request = request.as_written(turn.writer.text)
        return base.opening, stepped(base, request, state, turn.cursor, turn.outputs, now)
    if isinstance(request, CreateRequest):
        return opened(base, request.history, state, turn.cursor, turn.outputs, now)
    if isinstance(request, StartRequest):
        return started(base, request, state, turn.cursor, turn.outputs, now)
    if isinstance(request, DeleteRequest):
        return base.opening, closed(base, "deleted", now)
    if isinstance(request, UpgradeRequest) and request.policy == "replay":
        return base.opening, replayed(base, state, turn.cursor, now)
    return base.opening, base.data  # decided whole


def num_steps_made(turn: Turn, record: Record) -> int:
    """How many observations a committed turn has fed to its session."""
    if isinstance(turn.request, StepRequest | StartRequest):
        return turn.request.observations.num_observed
    return record.opening.history if isinstance(turn.request, CreateRequest) else 0
