"""What a request means for the record that lies there, decided without clock or store."""

import pytest

from service.contract.text import TextCursor
from service.engine.models.loaded_model import LoadedModel
from service.engine.models.registry import Registry
from service.engine.session.requests import DeleteRequest, Observations
from service.engine.session.rules import (
    MAX_RING_BYTES,
    Answer,
    Apply,
    closed,
    decide,
    decide_create,
    may_apply,
    seed_record,
    stepped,
)
from service.errors import (
    SessionExistsError,
    SessionExpiredError,
    StepConflictError,
    VersionGoneError,
)
from service.stores.memory import MemoryStore
from tests.engine.support import (
    A,
    Witness,
    create_load,
    create_mood,
    rows,
    running_engine,
    small_models,
    step_rows,
    step_text,
)

NOW = 1000.0


def open_record(request=None, expires_at=NOW + 60):
    request = request or create_load()
    seed = seed_record(A, small_models().get(request.model), request, NOW)
    return seed._replace(expires_at=expires_at)


def after_step(base, request, outputs=b"out"):
    data = stepped(base, request, base.state, base.cursor, outputs, NOW)
    return base._replace(data=data)


@pytest.mark.parametrize("request_", [step_rows(rows(1)), DeleteRequest()])
def test_the_moment_of_expiry_is_expired_already(request_):
    record = open_record(expires_at=NOW)
    with pytest.raises(SessionExpiredError):
        decide(request_, A, record, NOW)
    assert isinstance(decide(request_, A, record, NOW - 0.001), Apply)


def test_a_name_is_free_at_the_moment_of_expiry():
    found, seed = open_record(expires_at=NOW), open_record()
    assert decide_create(create_load(), found, seed, NOW) == Apply(seed, None, expired=found)
    assert isinstance(decide_create(create_load(), found, seed, NOW - 0.001), Answer)


def test_a_session_of_another_model_is_not_resumed():
    request = create_mood(resumes=True)
    seed = open_record(request)
    with pytest.raises(SessionExistsError, match="'load'") as caught:
        decide_create(request, open_record(), seed, NOW)
    assert caught.value.members == {"expected_step": 0}
    assert isinstance(decide_create(request, open_record(create_mood()), seed, NOW), Answer)


def test_a_preview_of_an_applied_step_is_refused_and_never_a_replay():
    step = step_rows(rows(1), 0)
    record = after_step(open_record(), step)._replace(expires_at=NOW + 60)
    assert decide(step, A, record, NOW).reply.is_replay
    with pytest.raises(StepConflictError) as caught:
        decide(step_rows(rows(1), 0, is_preview=True), A, record, NOW)
    assert caught.value.members == {"expected_step": 1}


def test_only_a_step_that_fits_may_be_decided_from_memory():
    record = open_record()
    assert may_apply(step_rows(rows(1)), record, 3)
    assert may_apply(step_rows(rows(1), 3), record, 3)
    assert not may_apply(step_rows(rows(1), 2), record, 3)
    for request in (step_rows(rows(1), is_preview=True), create_load(), DeleteRequest()):
        assert not may_apply(request, record, 0)


def test_kept_replies_are_bounded_by_bytes_and_the_newest_stays():
    record = open_record(create_load(ring_size=9))
    for step in range(4):
        record = after_step(record, step_rows(rows(1), step), bytes(MAX_RING_BYTES // 2 - 32))
    assert [reply.from_step for reply in record.kept_replies] == [2, 3]
    assert len(record.replies) == MAX_RING_BYTES
    record = after_step(record, step_rows(rows(1), 4), bytes(MAX_RING_BYTES + 1))
    assert [reply.from_step for reply in record.kept_replies] == [4]


@pytest.mark.parametrize("reason", ["final", "deleted"])
def test_a_tombstone_holds_nothing_of_the_text(reason):
    seed = open_record(create_mood())
    cursor = TextCursor(" secret", 3)
    base = seed._replace(data=stepped(seed, step_text(" secret"), seed.state, cursor, b"out", NOW))
    assert base.cursor == cursor
    if reason == "final":
        tombstone = after_step(base, step_text("x", 1, final=True))
    else:
        tombstone = base._replace(data=closed(base, "deleted", NOW))
    assert (tombstone.closed, tombstone.state) == (reason, b"")
    assert tombstone.cursor == TextCursor()
    assert b"secret" not in tombstone.data
    assert tombstone.kept_replies[-1].from_step == (1 if reason == "final" else 0)
    assert tombstone.revision != base.revision


async def test_a_tombstone_lives_as_long_as_a_retry_may_come_and_no_longer():
    now = NOW
    store = MemoryStore(lambda: now)
    async with running_engine(store) as engine:
        await engine.submit(A, create_mood(ttl_s=5))
        await engine.submit(A, step_text("a waste", 0, final=True))
        now = NOW + 599
        assert await store.sweep(10) == []
        assert (await engine.submit(A, step_text("a waste", 0, final=True))).is_replay
        now = NOW + 601
        assert [swept.closed for swept in await store.sweep(10)] == ["final"]


async def test_a_name_that_expired_opens_as_a_fresh_session_and_the_old_one_is_told_as_expired():
    now, witness = NOW, Witness()
    async with running_engine(MemoryStore(lambda: now), observer=witness) as engine:
        await engine.submit(A, create_load(rows(2), ttl_s=10))
        await engine.submit(A, step_rows(rows(1), 2))
        old = await engine.read(A)
        now += 11
        reply = await engine.submit(A, create_load(rows(2), ttl_s=10))
        assert (reply.is_new, reply.is_replay, reply.step) == (True, False, 2)
        assert witness.ended == ["expired"]
        now += 11
        reply = await engine.submit(A, create_load(ttl_s=10, resumes=True))
        assert (reply.is_new, reply.step) == (True, 0)
        fresh = await engine.read(A)
        assert (fresh.step, fresh.kept_replies) == (0, ())
        assert fresh.state == engine.registry.get("load").layout.initial_row != old.state
        assert witness.ended == ["expired", "expired"]


async def test_a_preview_sees_what_another_replica_did():
    store = MemoryStore()
    async with running_engine(store) as engine, running_engine(store) as rival:
        await engine.submit(A, create_load())
        await engine.submit(A, step_rows(rows(1), 0))
        await rival.submit(A, step_rows(rows(3), 1))
        tried = await engine.submit(A, step_rows(rows(1), is_preview=True))
        assert tried.step == 5


async def test_a_state_of_other_weights_is_not_stepped():
    """The same name, version and layout, trained again: its states mean something else."""
    store = MemoryStore()
    async with running_engine(store) as engine:
        await engine.submit(A, create_load())
    load = small_models().get("load")
    files = load.manifest.files | {load.manifest.graph.file: "1" * 64}
    manifest = load.manifest.model_copy(update={"files": files})
    again = Registry([LoadedModel(manifest, load.layout, load.runner, load.codec)], {}, "cpu")
    async with running_engine(store, registry=again) as engine:
        with pytest.raises(VersionGoneError, match="with other weights"):
            await engine.submit(A, step_rows(rows(1), 0))
        assert (await engine.read(A)).step == 0


def test_the_newest_version_is_the_one_with_the_greatest_number():
    load = small_models().get("load")
    models = [
        LoadedModel(
            load.manifest.model_copy(update={"version": version}),
            load.layout,
            load.runner,
            load.codec,
        )
        for version in ("10", "9", "100", "2")
    ]
    registry = Registry(models, {}, "cpu")
    assert registry.get("load").version == "100"
    assert [model.version for model in registry.versions("load")] == ["2", "9", "10", "100"]
    assert [model.version for model in registry.all()] == ["2", "9", "10", "100"]


def test_an_observation_is_a_row_or_a_chunk():
    assert Observations(rows=rows(3)).num_observed == 3
    assert Observations(text="three little words").num_observed == 1
