"""What a task's request means, and what it writes: each kind of request finds its rule here."""

import time
from dataclasses import replace

from service.contract.text import NO_TEXT
from service.engine.dispatch.request_task import RequestTask
from service.engine.models.registry import Registry
from service.engine.session.operations import (
    decide_fork,
    decide_restore,
    decide_rewind,
    decide_upgrade,
    replayed,
)
from service.engine.session.refusals import session_not_found
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
    stepped,
)
from service.engine.session.starts import decide_start, opening_seen, started
from service.stores.base import Store
from service.stores.record.record import Record, SessionHeader


async def decide_turn(
    task: RequestTask, found: Record | None, store: Store, registry: Registry
) -> Apply | Answer:
    """What becomes of a task, now that `found` is what the store holds.

    Raises:
        CarryError: the request is refused.
    """
    request, key = task.request, task.queue.key
    source = await store.load(request.source) if isinstance(request, ForkRequest) else None
    now = await store.now()
    if isinstance(request, CreateRequest):
        wanted = registry.get(request.model, request.version)
        return decide_create(request, found, seed_record(key, wanted, request, time.time()), now)
    if isinstance(request, StartRequest):
        return _decide_start(task, request, found, registry, now)
    if isinstance(request, ForkRequest):
        forked = source and registry.find(source.header.model, source.header.version)
        return decide_fork(request, key, found, source, forked, now)
    if isinstance(request, RewindRequest):
        return decide_rewind(request, key, found, now)
    if isinstance(request, RestoreRequest):
        header = request.sealed.header
        model = registry.find(header.model, header.version)
        return decide_restore(request, key, found, model, now)
    if isinstance(request, UpgradeRequest):
        if found is None:
            raise session_not_found(key)
        header = found.header
        old = registry.find_for_session(header) or registry.find(header.model, header.version)
        new = registry.get(header.model, request.version)
        return decide_upgrade(request, key, found, old, new, now)
    return decide(request, key, found, now)


def _decide_start(
    task: RequestTask, request: StartRequest, found: Record | None, registry: Registry, now: float
) -> Apply | Answer:
    if not task.num_lost_races:
        task.seen = None
    wanted = registry.get(request.header.model, request.header.version)
    header = replace(request.header, known_digest=request.digest)
    seed = seed_record(task.queue.key, wanted, header, request.asked_at)
    decision = decide_start(request, found, seed, task.seen, now)
    if task.seen is None:
        task.seen = opening_seen(found, now)
    if decision is None:  # it has run already: that is how it lost the race
        num_observed = request.observations.num_observed
        return Answer(Reply(task.base, num_observed, task.outputs, is_new=True))
    return decision


def written(task: RequestTask, state: bytes) -> tuple[SessionHeader, bytes]:
    """What follows the task's base, where the graph came to `state`."""
    request, base, now = task.request, task.base, time.time()
    if isinstance(request, StepRequest):
        if not task.is_simple and task.cursor is not NO_TEXT and task.writer is not None:
            request = request.as_written(task.writer.text)
        return base.header, stepped(base, request, state, task.cursor, task.outputs, now)
    if isinstance(request, CreateRequest):
        return opened(base, request.history, state, task.cursor, task.outputs, now)
    if isinstance(request, StartRequest):
        return started(base, request, state, task.cursor, task.outputs, now)
    if isinstance(request, DeleteRequest):
        return base.header, closed(base, "deleted", now)
    if isinstance(request, UpgradeRequest) and request.policy == "replay":
        return base.header, replayed(base, state, task.cursor, now)
    return base.header, base.data  # decided whole


def num_steps_made(task: RequestTask, record: Record) -> int:
    """How many observations a committed task has fed to its session."""
    if isinstance(task.request, StepRequest | StartRequest):
        return task.request.observations.num_observed
    return record.header.history if isinstance(task.request, CreateRequest) else 0
