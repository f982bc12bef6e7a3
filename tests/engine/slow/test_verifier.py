"""A graph that never ends costs its own bundle only, and so does one that is only slow."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from service.contract.errors import BundleError
from service.engine import repository
from service.engine.models import first_load
from service.engine.models.first_load import load_folder
from service.engine.models.folder import ModelsFolder
from service.engine.models.verifier import Cancelled, Verification, Verifier
from service.engine.repository import Repository
from service.errors import DeadlineError, InvalidInputError
from tests.engine.support import A, create_load, rows, running_engine
from tests.fakes.bundles import write_forecaster
from tests.fakes.odd_bundles import ENDLESS, write_looping_classifier

LONG_S = 600.0


@pytest.fixture
def folder(tmp_path):
    write_forecaster(tmp_path)
    return tmp_path


@pytest.fixture
def verifier():
    with closing(Verifier("cpu", 1, limit_s=LONG_S)) as verifier:
        yield verifier


@asynccontextmanager
async def replica(folder, verifier, **how):
    registry = load_folder(folder, "cpu", 1, verifier, patience_s=1.0)
    async with running_engine(registry=registry) as engine:
        files = ModelsFolder(folder, "cpu", 1, verifier)
        served = Repository(engine, files, grace_s=0.0, poll_s=0, **how)
        served.engine = engine
        await served.start()
        yield served
        await served.close()


def states(served):
    return {f"{each.name}/{each.version}": each.state for each in served.index()}


def test_an_endless_graph_is_refused_when_its_time_is_up(folder):
    path = write_looping_classifier(folder, ENDLESS)
    with closing(Verifier("cpu", 1, limit_s=1.0)) as hasty:
        with pytest.raises(BundleError, match=r"not verified in 1 s: .*CARRY_LOAD_TIMEOUT_S"):
            Verification(hasty, path).run()
        assert not hasty._children
        # Another process verifies the next.
        with closing(Verifier("cpu", 1, limit_s=LONG_S)) as patient:
            assert Verification(patient, folder / "load" / "1").run()


def test_the_start_goes_on_without_endless_bundles(folder, verifier):
    for version in ("1", "2", "3"):
        write_looping_classifier(folder, ENDLESS, version)
    registry = load_folder(folder, "cpu", 1, verifier, patience_s=1.0)
    assert [model.name for model in registry.all()] == ["load"]
    assert registry.late == {("mood", version) for version in "123"}
    assert not registry.refused


async def test_beside_an_endless_bundle_others_are_loaded_unloaded_and_served(folder, verifier):
    write_looping_classifier(folder, ENDLESS)
    async with replica(folder, verifier, wait_s=0.5) as served:
        assert states(served) == {"load/1": "READY", "mood/1": "LOADING"}
        write_forecaster(folder, version="2", seed=2)
        while True:
            try:
                await served.load("load")
                break
            except DeadlineError:  # the machine is slow, the bundle is not endless
                continue
        assert states(served)["load/2"] == "READY"
        assert (await served.engine.submit(A, create_load(rows(1)))).step == 1
        with pytest.raises(DeadlineError, match="is being loaded still"):
            await served.load("mood")
        assert states(served)["mood/1"] == "LOADING"
        await served.unload("load", "2")
        await served.unload("mood")
        assert states(served)["mood/1"] == "UNAVAILABLE"
        assert "mood/1" not in served.engine.registry.refused


async def test_an_endless_bundle_does_not_keep_the_repository_from_closing(folder, verifier):
    write_looping_classifier(folder, ENDLESS)
    async with replica(folder, verifier) as served:
        children = list(verifier._children)
        assert states(served)["mood/1"] == "LOADING"
    while any(child._process.poll() is None for child in children):  # noqa: ASYNC110 -- no event
        await asyncio.sleep(0.01)


async def test_a_slow_bundle_is_served_when_it_is_ready_and_holds_nothing_up(folder, verifier):
    write_looping_classifier(folder, 60_000)
    async with replica(folder, verifier) as served:
        assert states(served) == {"load/1": "READY", "mood/1": "LOADING"}
        write_forecaster(folder, version="2", seed=2)
        await served.load("load")
        ready_s = time.monotonic()
        await served.load("mood")
        assert states(served) == {"load/1": "READY", "load/2": "READY", "mood/1": "READY"}
        assert time.monotonic() > ready_s


async def test_an_endless_bundle_is_refused_in_the_background(folder):
    write_looping_classifier(folder, ENDLESS)
    with closing(Verifier("cpu", 1, limit_s=3.0)) as hasty:
        async with replica(folder, hasty) as served:
            with pytest.raises(InvalidInputError, match="not verified in 3 s"):
                await served.load("mood")
            assert states(served) == {"load/1": "READY", "mood/1": "UNAVAILABLE"}


def test_a_bundle_that_waits_behind_others_can_be_cancelled(folder, verifier):
    verifier._turn.acquire()
    waiting = Verification(verifier, folder / "load" / "1")
    threading.Timer(0.1, waiting.cancel).start()
    with pytest.raises(Cancelled):
        waiting.run()
    verifier._turn.release()
    assert Verification(verifier, folder / "load" / "1").run()


def test_more_endless_bundles_than_processes_leave_the_others_their_turn(
    folder, verifier, monkeypatch
):
    monkeypatch.setattr(verifier, "_room", threading.Semaphore(2))
    for version in ("1", "2", "3"):
        write_looping_classifier(folder, ENDLESS, version)
    registry = load_folder(folder, "cpu", 1, verifier, patience_s=1.0)
    assert [model.name for model in registry.all()] == ["load"]


def test_the_process_ends_with_the_one_that_started_it(folder):
    """Even where a graph runs for ever, and whoever could end it was killed."""
    path = write_looping_classifier(folder, ENDLESS)
    program = f"""
import sys, threading, time
from pathlib import Path
from service.engine.models.verifier import Verification, Verifier
verifier = Verifier("cpu", 1, 600.0)
verification = Verification(verifier, Path({str(path)!r}))
threading.Thread(target=verification.run, daemon=True).start()
while verification._child is None or not verification._child.was_used:
    time.sleep(0.01)
print(verification._child._process.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(first_load.__file__).parents[2],
    )
    try:
        child = int(parent.stdout.readline())
    finally:
        parent.kill()
        parent.communicate()
    try:
        while is_alive(child):
            time.sleep(0.05)
    finally:
        if is_alive(child):
            os.kill(child, signal.SIGKILL)


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_what_loads_bundles_rests_when_nothing_is_loaded(folder, verifier, monkeypatch):
    monkeypatch.setattr(repository, "_REST_AFTER_S", 0.0)

    async def check():
        async with replica(folder, verifier) as served:
            write_forecaster(folder, version="2", seed=2)
            await served.load("load")
            while verifier._children:  # noqa: ASYNC110 -- no event
                await asyncio.sleep(0.01)

    asyncio.run(check())
