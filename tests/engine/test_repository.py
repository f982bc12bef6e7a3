"""What is served follows the folder and what was said, in every process on a store."""

import asyncio
import re
import shutil
import threading
import weakref
from contextlib import asynccontextmanager

import pytest

from service.contract.bundle import read_bundle, write_bundle
from service.engine import repository as repositories
from service.engine.models.desired_state import VALUE_NAME, DesiredState
from service.engine.models.folder import ModelsFolder
from service.engine.models.registry import load_registry
from service.engine.repository import Repository
from service.engine.session.requests import UpgradeRequest
from service.errors import (
    ContentionError,
    InvalidInputError,
    ModelNotFoundError,
    RecordUnreadableError,
    StoreUnavailableError,
    VersionGoneError,
)
from service.stores.memory import MemoryStore
from tests.engine.support import A, ScriptedStore, create_load, rows, running_engine, step_rows
from tests.fakes.bundles import write_classifier, write_forecaster

LONG_S = 3600.0


@pytest.fixture
def folder(tmp_path):
    write_forecaster(tmp_path)
    write_classifier(tmp_path)
    return tmp_path


@asynccontextmanager
async def replica(folder, store=None, grace_s=LONG_S):
    """One process; its watcher looks when it is told to."""
    registry = load_registry(folder, "cpu", 1)
    async with running_engine(store, registry=registry) as engine:
        files = ModelsFolder(folder, "cpu", 1)
        repository = Repository(engine, files, grace_s=grace_s, poll_s=0)
        repository.engine = engine
        await repository.start()
        yield repository
        await repository.close()


def states(repository, *, reasons=False):
    return {
        f"{each.name}/{each.version}": (each.state, each.reason) if reasons else each.state
        for each in repository.index()
    }


async def nothing_leaves(repository):
    """Return when no grace and no answer is waited for."""
    registry = repository.engine.registry
    async with asyncio.timeout(5):
        while registry.leaving or registry.retiring:  # noqa: ASYNC110 -- there is no event
            await asyncio.sleep(0.001)


async def look_twice(repository):
    await repository.look_again()
    await repository.look_again()


def break_bundle(folder, name="load", version="1"):
    graph = folder / name / version / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])


async def test_an_unloaded_model_is_unloading_then_unavailable_then_ready_again(folder):
    async with replica(folder) as one:
        assert states(one) == {"load/1": "READY", "mood/1": "READY"}
        await one.engine.submit(A, create_load())
        await one.unload("load")
        assert states(one) == {"load/1": "UNLOADING", "mood/1": "READY"}
        reason = states(one, reasons=True)["load/1"][1]
        assert re.search(r"may be stepped for (3600|3599) s more", reason)
        with pytest.raises(ModelNotFoundError):
            one.engine.registry.get("load")
        assert (await one.engine.submit(A, step_rows(rows(1), 0))).step == 1
        [model] = one.engine.registry.retiring
        await one.load("load")
        assert one.engine.registry.get("load") is model
        assert states(one)["load/1"] == "READY"


async def test_what_is_said_to_one_replica_is_carried_out_by_the_others(folder):
    store = MemoryStore()
    async with replica(folder, store) as one, replica(folder, store) as two:
        await one.engine.submit(A, create_load())
        await one.unload("load")
        assert states(two)["load/1"] == "READY"
        await two.look_again()
        assert states(two)["load/1"] == "UNLOADING"
        await two.load("load")
        await one.look_again()
        assert states(one) == states(two) == {"load/1": "READY", "mood/1": "READY"}


async def test_a_replica_that_starts_does_not_serve_what_was_unloaded(folder):
    store = MemoryStore()
    async with replica(folder, store) as one:
        await one.engine.submit(A, create_load())
        await one.unload("load")
        async with replica(folder, store) as two:
            with pytest.raises(ModelNotFoundError):
                two.engine.registry.get("load")
            assert states(two)["load/1"] == "UNLOADING"
            await two.load("load")
            assert (await two.engine.submit(A, step_rows(rows(1), 0))).step == 1


async def test_a_new_version_is_picked_up_once_it_lies_still_and_is_the_default(folder):
    async with replica(folder) as one:
        await one.look_again()
        write_forecaster(folder, version="2", seed=2)
        whole = (folder / "load" / "2" / "model.onnx").read_bytes()
        (folder / "load" / "2" / "model.onnx").write_bytes(whole[:100])
        await one.look_again()
        assert states(one, reasons=True)["load/2"] == ("UNAVAILABLE", "not loaded yet")
        (folder / "load" / "2" / "model.onnx").write_bytes(whole)
        await one.look_again()
        assert states(one)["load/2"] == "UNAVAILABLE"
        assert not one.engine.registry.refused
        await one.look_again()
        assert states(one)["load/2"] == "READY"
        assert one.engine.registry.get("load").version == "2"


async def test_a_word_of_load_does_not_wait_for_a_new_version_to_lie_still(folder):
    async with replica(folder) as one:
        await one.engine.submit(A, create_load())
        write_forecaster(folder, version="2", seed=2)
        await one.load("load")
        assert one.engine.registry.get("load").version == "2"
        assert (await one.engine.submit(A, step_rows(rows(1), 0))).record.header.version == "1"


async def test_one_version_is_unloaded_so_that_the_one_before_is_the_default_again(folder):
    write_forecaster(folder, version="2", seed=2)
    store = MemoryStore()
    async with replica(folder, store) as one, replica(folder, store) as two:
        await one.unload("load", "2")
        await two.look_again()
        for each in (one, two):
            assert states(each) == {"load/1": "READY", "load/2": "UNLOADING", "mood/1": "READY"}
            assert each.engine.registry.get("load").version == "1"
        await one.unload("load")
        await one.load("load", "2")
        assert states(one) == {"load/1": "UNLOADING", "load/2": "READY", "mood/1": "READY"}
        await one.load("load")
        await two.look_again()
        for each in (one, two):
            assert set(states(each).values()) == {"READY"}


async def test_a_bundle_that_cannot_be_loaded_is_tried_once_and_disturbs_nobody(
    folder, monkeypatch
):
    logged = []
    monkeypatch.setattr(repositories.log, "warning", lambda *said, **more: logged.append(more))
    async with replica(folder) as one:
        await one.engine.submit(A, create_load())
        write_forecaster(folder, version="2", seed=2)
        break_bundle(folder, version="2")
        for _ in range(4):
            await one.look_again()
        state, reason = states(one, reasons=True)["load/2"]
        assert state == "UNAVAILABLE"
        assert "SHA-256" in reason
        assert [each["bundle"] for each in logged] == ["load/2"]
        assert one.engine.registry.get("load").version == "1"
        assert (await one.engine.submit(A, step_rows(rows(1), 0))).step == 1
        write_forecaster(folder, version="2", seed=2)
        await look_twice(one)
        assert states(one)["load/2"] == "READY"
        assert not one.engine.registry.refused


async def test_load_says_why_a_bundle_is_refused_and_serves_the_other_versions(folder):
    for version in ("2", "3"):
        write_forecaster(folder, version=version, seed=int(version))
    break_bundle(folder, version="2")
    async with replica(folder) as one:
        await one.unload("load")
        assert states(one)["load/2"] == "UNAVAILABLE"
        with pytest.raises(InvalidInputError, match=r"failed to load 'load': load/2/.*SHA-256"):
            await one.load("load")
        assert states(one) | {"load/1": "READY", "load/3": "READY"} == states(one)
        await one.load("load", "3")
        with pytest.raises(InvalidInputError, match="failed to load 'load' version '2'"):
            await one.load("load", "2")


async def test_what_was_changed_in_place_is_replaced_by_a_word_alone(folder):
    store = MemoryStore()
    async with replica(folder, store) as one, replica(folder, store) as two:
        await one.engine.submit(A, create_load())
        old = two.engine.registry.get("load")
        write_forecaster(folder, seed=5)
        for each in (one, two):
            await look_twice(each)
        assert two.engine.registry.get("load") is old
        await one.load("load")
        await two.look_again()
        for each in (one, two):
            new = each.engine.registry.get("load")
            assert new.fingerprint.graph_sha256 != old.fingerprint.graph_sha256
        assert two.engine.registry.retiring == [old]
        assert (await two.engine.submit(A, step_rows(rows(1), 0))).step == 1


async def test_what_was_changed_to_something_broken_leaves_the_old_one_serving(folder):
    async with replica(folder) as one:
        old = one.engine.registry.get("load")
        break_bundle(folder)
        with pytest.raises(InvalidInputError, match="SHA-256"):
            await one.load("load")
        assert one.engine.registry.get("load") is old
        state, reason = states(one, reasons=True)["load/1"]
        assert (state, "another one" in reason) == ("READY", True)


async def test_what_is_loaded_already_is_not_loaded_again(folder):
    async with replica(folder) as one:
        models = one.engine.registry.all()
        await one.load("load")
        bundle = read_bundle(folder / "load" / "1")
        write_bundle(folder / "load" / "1", bundle.manifest, bundle.files)  # the same, anew
        await one.load("load")
        assert one.engine.registry.all() == models


async def test_a_folder_that_is_gone_goes_on_being_served_until_a_word(folder):
    write_forecaster(folder, version="2", seed=2)
    async with replica(folder) as one:
        shutil.rmtree(folder / "load" / "1")
        await look_twice(one)
        assert states(one)["load/1"] == "READY"
        await one.load("load")
        assert states(one) == {"load/1": "UNLOADING", "load/2": "READY", "mood/1": "READY"}
        shutil.rmtree(folder / "load")
        await look_twice(one)
        with pytest.raises(ModelNotFoundError, match="no such bundle in the folder"):
            await one.load("load")
        assert one.engine.registry.get("load").version == "2"
        await one.unload("load")
        with pytest.raises(ModelNotFoundError):
            one.engine.registry.get("load")


@pytest.mark.parametrize(
    "name", ["nothing", "..", ".", "", "../load", "load/1", "/etc", "load\0", "..%2f", "LOAD"]
)
async def test_a_name_that_the_folder_does_not_list_is_never_a_path(folder, name, monkeypatch):
    (folder / ".hidden").mkdir()
    async with replica(folder) as one:
        monkeypatch.setattr(ModelsFolder, "read", None)
        for ask in (one.load, one.unload):
            for version in (None, "1", "..", "../1"):
                with pytest.raises(ModelNotFoundError):
                    await ask(name, version)
            with pytest.raises(ModelNotFoundError):
                await ask("load", name)
        assert await one.engine.store.read_value(VALUE_NAME) == b""


async def test_a_store_that_is_away_is_said_and_nothing_is_done(folder, monkeypatch):
    store = ScriptedStore()

    async def away(*_):
        raise StoreUnavailableError("away", retry_after_s=1)

    async with replica(folder, store) as one:
        monkeypatch.setattr(store, "swap_value", away)
        with pytest.raises(StoreUnavailableError):
            await one.unload("load")
        monkeypatch.setattr(store, "read_value", away)
        with pytest.raises(StoreUnavailableError):
            await one.look_again()
        assert set(states(one).values()) == {"READY"}
        async with replica(folder, store) as two:
            assert set(states(two).values()) == {"READY"}
            monkeypatch.undo()
            await one.unload("load")
            await two.look_again()
            assert states(two)["load/1"] == "UNLOADING"


async def test_words_of_several_replicas_at_once_are_all_kept(folder, monkeypatch):
    store = MemoryStore()
    async with replica(folder, store) as one, replica(folder, store) as two:
        read = store.read_value

        async def read_while_another_speaks(name):
            found = await read(name)
            monkeypatch.setattr(store, "read_value", read)
            await two.unload("mood")
            return found

        monkeypatch.setattr(store, "read_value", read_while_another_speaks)
        await one.unload("load")
        await one.look_again()
        assert set(states(one).values()) == {"UNLOADING"}

        async def never(*_):
            return False

        monkeypatch.setattr(store, "swap_value", never)
        with pytest.raises(ContentionError):
            await one.load("load")


async def test_words_of_a_later_service_are_left_as_they_are(folder):
    store = MemoryStore()
    await store.swap_value(VALUE_NAME, b"", b'{"revision": 1, "models": {}, "new": 1}')
    async with replica(folder, store) as one:
        assert set(states(one).values()) == {"READY"}
        for ask in (one.load, one.unload):
            with pytest.raises(RecordUnreadableError, match="later service"):
                await ask("load")
        assert b"new" in await store.read_value(VALUE_NAME)


async def test_a_store_that_was_emptied_serves_everything_again(folder):
    store = MemoryStore()
    async with replica(folder, store) as one:
        await one.unload("load")
        store._values.clear()
        await one.look_again()
        assert set(states(one).values()) == {"READY"}


async def test_after_the_grace_nothing_of_it_is_served_and_its_sessions_wait(folder):
    async with replica(folder, grace_s=0.0) as one:
        await one.engine.submit(A, create_load())
        await one.engine.submit(A, step_rows(rows(1), 0))
        await one.unload("load")
        await nothing_leaves(one)
        with pytest.raises(VersionGoneError):
            await one.engine.submit(A, step_rows(rows(1), 1))
        assert states(one, reasons=True)["load/1"] == ("UNAVAILABLE", "unloaded")
        await one.load("load")
        assert (await one.engine.submit(A, step_rows(rows(1), 1))).step == 2


def test_words_come_back_as_they_were_said():
    wanted = DesiredState()
    assert wanted.of("m").wants("1")
    wanted = wanted.said("m", "2", is_wanted=False)
    assert [wanted.of("m").wants(version) for version in "123"] == [True, False, True]
    wanted = wanted.said("m", None, is_wanted=False).said("m", "3", is_wanted=True)
    assert [wanted.of("m").wants(version) for version in "123"] == [False, False, True]
    wanted = wanted.said("n", None, is_wanted=True)
    assert (wanted.revision, wanted.of("m").revision, wanted.of("n").revision) == (4, 3, 4)
    assert DesiredState.read(wanted.to_bytes()) == wanted
    assert DesiredState.read(b"") == DesiredState()
    for damaged in (b"{", b"[]", b'{"revision": "x"}'):
        with pytest.raises(RecordUnreadableError):
            DesiredState.read(damaged)


async def test_of_a_hundred_versions_that_were_loaded_upgraded_to_and_unloaded_none_is_left(folder):
    observed = []
    async with replica(folder, grace_s=0.0) as one:
        engine = one.engine
        await engine.submit(A, create_load())
        for count in range(100):
            model = engine.registry.get("load")
            observed += [weakref.ref(model), weakref.ref(model.runner._ort_session)]
            new = str(count + 2)
            write_forecaster(folder, version=new, seed=count + 2)
            await one.load("load")
            assert (await engine.submit(A, step_rows(rows(1), count))).step == count + 1
            await engine.submit(A, UpgradeRequest(new, force=True))
            await one.unload("load", model.version)
            del model
            shutil.rmtree(folder / "load" / str(count + 1))
        await nothing_leaves(one)
        alive = [each for each in observed if each() is not None]
        assert not alive
        assert len(list(engine.workers)) == len(engine.registry.all()) == 2
        assert not any(thread.name.startswith("load-") for thread in threading.enumerate())
        await one.look_again()
        assert states(one) == {"load/101": "READY", "mood/1": "READY"}
