"""A session goes on with another version, by its state or by its last observations, or stays."""

import asyncio
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.models.loaded_model import LoadedModel
from service.engine.models.registry import Registry, load_registry
from service.engine.session.requests import (
    CreateRequest,
    DeleteRequest,
    Observations,
    RewindRequest,
    UpgradeRequest,
)
from service.errors import (
    ModelNotFoundError,
    SessionClosedError,
    SessionNotFoundError,
    UpgradeRefusedError,
    VersionGoneError,
)
from service.stores.memory import MemoryStore
from service.stores.record.history import HistoryPolicy
from service.stores.record.record import Key
from tests.engine.support import (
    A,
    ScriptedStore,
    create_load,
    create_mood,
    rows,
    running_engine,
    step_rows,
    step_text,
)
from tests.fakes.bundles import write_captioner, write_classifier, write_forecaster, write_tagger

CARRY, REPLAY = UpgradeRequest("2", force=True), UpgradeRequest("2", "replay")


@cache
def two_versions() -> Registry:
    folder = Path(mkdtemp(prefix="carry-versions-"))
    for version in ("1", "2"):
        write_forecaster(folder, version, seed=int(version))
        write_classifier(folder, version, seed=int(version))
        write_tagger(folder, version, seed=int(version))
        write_captioner(folder, version, seed=int(version))
    return load_registry(folder, "cpu", 1)


def only(version):
    models = [model for model in two_versions().all() if model.version == version]
    return Registry(models, {}, "cpu")


def opened_with(request, version="1"):
    fields = {name: getattr(request, name) for name in type(request).__slots__}
    return type(request)(**fields | {"version": version})


def create(history=None, **fields):
    return opened_with(create_load(history, **fields))


async def whole(engine, version, observations, start_s=0):
    """What a version answers for these observations, from its start."""
    model = engine.registry.get("mood" if observations.rows is None else "load", version)
    [outputs] = await engine.predict(model, [(observations, start_s)])
    return model.runner.outputs.unpack(outputs)


def assert_same(model, outputs, expected):
    found = model.runner.outputs.unpack(outputs)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)


@given(st.integers(1, 6), st.integers(1, 4))
def test_a_carried_state_goes_on_in_the_other_graph(num_before, num_after):
    """Which answers as it would, had it come to that very state by itself."""
    values = rows(num_before + num_after)

    async def check():
        async with running_engine(registry=two_versions()) as engine:
            await engine.submit(A, create(values[:num_before]))
            before = await engine.read(A)
            reply = await engine.submit(A, CARRY)
            assert (reply.step, reply.outputs) == (num_before, b"")
            after = await engine.read(A)
            assert after.state == before.state
            assert after.header.version == "2"
            state = before.state
            for step in range(num_before, num_before + num_after):
                got = await engine.submit(A, step_rows(values[step : step + 1], step))
                state, outputs = run_alone(engine.registry, "2", values, state, step)
                assert got.outputs == outputs

    asyncio.run(check())


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.integers(1, 9), st.integers(1, 4))
def test_a_replayed_session_is_the_other_version_run_over_what_was_kept(counts, kept, num_after):
    total = sum(counts)
    values = rows(total + num_after)

    async def check():
        async with running_engine(registry=two_versions()) as engine:
            await engine.submit(A, create(keeps=HistoryPolicy(observations=kept)))
            step = 0
            for count in counts:
                await engine.submit(A, step_rows(values[step : step + count], step))
                step += count
            reply = await engine.submit(A, REPLAY)
            first = max(0, total - kept)
            model = engine.registry.get("load", "2")
            day_s = model.frequency_s
            seen = Observations(rows=values[first:total])
            assert_same(model, reply.outputs, await whole(engine, "2", seen, first * day_s))
            assert (reply.step, len(reply.record.history.observations)) == (total, total - first)
            for step in range(total, total + num_after):
                got = await engine.submit(A, step_rows(values[step : step + 1], step))
            seen = Observations(rows=values[first:])
            assert_same(model, got.outputs, await whole(engine, "2", seen, first * day_s))

    asyncio.run(check())


async def test_a_replayed_text_is_the_other_version_run_over_the_chunks():
    async with running_engine(registry=two_versions()) as engine:
        await engine.submit(A, opened_with(create_mood(keeps=HistoryPolicy(observations=9))))
        for step, chunk in enumerate(("a wonder", "ful fi", "lm")):
            await engine.submit(A, step_text(chunk, step))
        reply = await engine.submit(A, REPLAY)
        assert reply.step == 3
        model = engine.registry.get("mood", "2")
        expected = await whole(engine, "2", Observations(text="a wonderful film"))
        assert_same(model, reply.outputs, expected)
        got = await engine.submit(A, step_text("s of", 3))
        expected = await whole(engine, "2", Observations(text="a wonderful films of"))
        assert_same(model, got.outputs, expected)


@pytest.mark.parametrize("request_", [CARRY, REPLAY], ids=["carry", "replay"])
async def test_a_session_whose_version_is_gone_is_told_of_upgrade_and_goes_on_by_it(request_):
    store = MemoryStore()
    async with running_engine(store, registry=only("1")) as engine:
        await engine.submit(A, create(rows(3), keeps=HistoryPolicy(observations=5)))
    async with running_engine(store, registry=only("2")) as engine:
        with pytest.raises(VersionGoneError, match="upgrade"):
            await engine.submit(A, step_rows(rows(1), 3))
        await engine.submit(A, request_)
        assert (await engine.submit(A, step_rows(rows(1), 3))).step == 4


async def test_upgrading_again_changes_nothing():
    async with running_engine(registry=two_versions()) as engine:
        await engine.submit(A, create(rows(3), keeps=HistoryPolicy(observations=5)))
        await engine.submit(A, REPLAY)
        before = await engine.read(A)
        for request in (CARRY, REPLAY):
            reply = await engine.submit(A, request)
            assert (reply.step, reply.outputs) == (3, b"")
        assert await engine.read(A) == before


async def test_an_upgrade_clears_the_ring_and_the_first_reply_which_were_of_the_other_version():
    async with running_engine(registry=two_versions()) as engine:
        await engine.submit(A, create(rows(2), keeps=HistoryPolicy(checkpoints=3), ring_size=4))
        await engine.submit(A, step_rows(rows(1), 2))
        await engine.submit(A, CARRY)
        record = await engine.read(A)
        assert (record.kept_replies, record.header.outputs) == ((), b"")
        again = await engine.submit(
            A, create(rows(2), keeps=HistoryPolicy(checkpoints=3), ring_size=4)
        )
        assert (again.is_replay, again.step, again.outputs) == (True, 2, b"")
        await engine.submit(A, RewindRequest(2))  # a state that means the same is kept as well
        assert (await engine.submit(A, step_rows(rows(1), 2))).step == 3


async def test_states_that_are_laid_out_differently_are_not_handed_over():
    load = two_versions().get("load", "2")
    layout = type(load.layout)(load.layout.specs, schema="another/1")
    other = LoadedModel(load.manifest, layout, load.runner, load.codec)
    registry = Registry([two_versions().get("load", "1"), other], {}, "cpu")
    async with running_engine(registry=registry) as engine:
        await engine.submit(A, create(rows(2), keeps=HistoryPolicy(observations=2)))
        with pytest.raises(UpgradeRefusedError, match='"policy": "replay"'):
            await engine.submit(A, CARRY)
        assert (await engine.read(A)).header.version == "1"
        assert (await engine.submit(A, REPLAY)).step == 2


def with_compatible_states(model, *graphs):
    manifest = model.manifest.model_copy(update={"compatible_states": graphs})
    return LoadedModel(manifest, model.layout, model.runner, model.codec)


@pytest.mark.parametrize("keeps", [None, HistoryPolicy(observations=2)])
@pytest.mark.parametrize("is_loaded", [True, False])
async def test_a_state_is_not_carried_to_other_weights_by_itself(keeps, is_loaded):
    store = MemoryStore()
    async with running_engine(store, registry=only("1")) as engine:
        await engine.submit(A, create(rows(2), keeps=keeps))
        before = await engine.read(A)
    async with running_engine(store, registry=two_versions() if is_loaded else only("2")) as engine:
        with pytest.raises(UpgradeRefusedError, match=r'"policy": "replay".*"force": true'):
            await engine.submit(A, UpgradeRequest("2"))
        assert await engine.read(A) == before
        assert (await engine.submit(A, CARRY)).record.header.version == "2"


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("declared_by", ["1", "2"])
async def test_a_state_is_carried_where_either_manifest_says_that_it_means_the_same(
    version, declared_by
):
    """There and back: the version before cannot know of the one that comes after it."""
    models = {each: two_versions().get("load", each) for each in ("1", "2")}
    [other] = {"1", "2"} - {declared_by}
    graph = models[other].fingerprint.graph_sha256
    models[declared_by] = with_compatible_states(models[declared_by], "0" * 64, graph)
    async with running_engine(registry=Registry([*models.values()], {}, "cpu")) as engine:
        await engine.submit(A, opened_with(create_load(rows(2)), version))
        before = await engine.read(A)
        [to] = {"1", "2"} - {version}
        reply = await engine.submit(A, UpgradeRequest(to))
        assert reply.record.header.version == to
        assert reply.record.state == before.state


async def test_what_another_manifest_of_the_same_number_says_means_nothing():
    """The folder of version 1 was replaced: what made the state is not loaded any more."""
    two = two_versions().get("load", "2")
    graph = two.fingerprint.graph_sha256
    folder = Path(mkdtemp(prefix="carry-versions-"))
    write_forecaster(folder, "1", seed=7)
    [replaced] = load_registry(folder, "cpu", 1).all()
    store = MemoryStore()
    async with running_engine(store, registry=only("1")) as engine:
        await engine.submit(A, create(rows(2)))
    registry = Registry([with_compatible_states(replaced, graph), two], {}, "cpu")
    async with running_engine(store, registry=registry) as engine:
        with pytest.raises(UpgradeRefusedError):
            await engine.submit(A, UpgradeRequest("2"))


async def test_a_state_is_carried_to_the_same_weights_under_another_number():
    folder = Path(mkdtemp(prefix="carry-versions-"))
    for version in ("1", "2"):
        write_forecaster(folder, version)
    async with running_engine(registry=load_registry(folder, "cpu", 1)) as engine:
        await engine.submit(A, create(rows(2)))
        assert (await engine.submit(A, UpgradeRequest("2"))).record.header.version == "2"


async def test_what_kept_no_observations_is_not_replayed():
    async with running_engine(registry=two_versions()) as engine:
        await engine.submit(A, create(rows(2)))
        with pytest.raises(UpgradeRefusedError, match="keep_observations"):
            await engine.submit(A, REPLAY)


@pytest.mark.parametrize(
    ("name", "task"), [("load", "forecast"), ("phase", "tag"), ("label", "generate")]
)
async def test_a_version_that_reads_other_columns_is_refused(name, task):
    model = two_versions().get(name, "2")
    part = getattr(model.manifest, task)
    turned = part.model_copy(update={"columns": part.columns[::-1]})
    manifest = model.manifest.model_copy(update={task: turned})
    other = LoadedModel(manifest, model.layout, model.runner, model.codec)
    registry = Registry([two_versions().get(name, "1"), other], {}, "cpu")
    async with running_engine(registry=registry) as engine:
        await engine.submit(
            A, CreateRequest(name, "1", 60, start_s=0, keeps=HistoryPolicy(observations=2))
        )
        for request in (CARRY, REPLAY):
            with pytest.raises(UpgradeRefusedError, match="same columns"):
                await engine.submit(A, request)


async def test_what_cannot_be_stepped_or_is_not_loaded_cannot_be_upgraded():
    async with running_engine(registry=two_versions()) as engine:
        with pytest.raises(SessionNotFoundError):
            await engine.submit(A, CARRY)
        await engine.submit(A, create())
        with pytest.raises(ModelNotFoundError, match="'9'"):
            await engine.submit(A, UpgradeRequest("9"))
        await engine.submit(A, DeleteRequest())
        with pytest.raises(SessionClosedError):
            await engine.submit(A, CARRY)


async def test_an_upgrade_that_lost_a_race_hands_over_what_the_rival_wrote():
    store = ScriptedStore()
    registry = two_versions()
    async with (
        running_engine(store, registry=registry) as engine,
        running_engine(store, registry=registry) as rival,
    ):
        for request in (CARRY, UpgradeRequest("1", "replay")):
            if request is CARRY:
                await engine.submit(A, create(keeps=HistoryPolicy(observations=9)))
            step = (await engine.read(A)).step
            store.before_commit = lambda _, step=step: rival.submit(A, step_rows(rows(1), step))
            reply = await engine.submit(A, request)
            assert (reply.step, reply.record.header.version) == (step + 1, request.version)


@pytest.mark.parametrize("policy", ["carry", "replay"])
async def test_streams_under_traffic_go_on_exactly_through_an_upgrade(policy):
    """Two replicas step sessions while both hand them over: each step is applied once, in order."""
    store, registry, num_steps = MemoryStore(), two_versions(), 12
    keys = [Key("t", str(place)) for place in range(8)]
    values = rows(num_steps)
    async with (
        running_engine(store, registry=registry) as one,
        running_engine(store, registry=registry) as two,
    ):
        header = create(keeps=HistoryPolicy(observations=num_steps), ring_size=4)
        await asyncio.gather(*(one.submit(key, header) for key in keys))
        may_upgrade, is_upgraded = [[asyncio.Event() for _ in keys] for _ in range(2)]

        async def stream(place, key):
            seen = []
            for step in range(num_steps):
                if step == num_steps - 1:
                    await is_upgraded[place].wait()
                engine = (one, two)[(place + step) % 2]
                seen.append(await engine.submit(key, step_rows(values[step : step + 1], step)))
                if step == 1 + place:
                    may_upgrade[place].set()
            return seen

        async def upgrade(place, key):
            await may_upgrade[place].wait()
            await (two, one)[place % 2].submit(key, UpgradeRequest("2", policy, force=True))
            is_upgraded[place].set()

        streams = asyncio.gather(*(stream(place, key) for place, key in enumerate(keys)))
        await asyncio.gather(*(upgrade(place, key) for place, key in enumerate(keys)))
        for place, (key, seen) in enumerate(zip(keys, await streams, strict=True)):
            assert [reply.step for reply in seen] == list(range(1, num_steps + 1))
            versions = [reply.record.header.version for reply in seen]
            assert versions == sorted(versions)
            assert versions[1 + place] == "1"
            assert versions[-1] == "2"
            for step, (before, after) in enumerate(pairwise(seen), start=1):
                same = versions[step - 1] == versions[step]
                if same or policy == "carry":  # else the state was made anew in between
                    stepped = run_alone(registry, versions[step], values, before.record.state, step)
                    assert (after.record.state, after.outputs) == stepped
            assert (await two.read(key)).step == num_steps
            if policy == "replay":
                expected = await whole(one, "2", Observations(rows=values))
                assert_same(registry.get("load", "2"), seen[-1].outputs, expected)


def run_alone(registry, version, values, state, step):
    """State and outputs of one step, run by itself."""
    model = registry.get("load", version)
    batch = model.runner.stage([values[step : step + 1]], [state], [1], [0], [step])
    batch.run()
    result = model.runner.take(batch)
    return result.state_of(0), result.last_of(0)
