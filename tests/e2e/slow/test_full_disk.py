"""A disk without room, and one that may not be written, under a server with a durable store."""

import errno
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.server import running_server
from tests.fakes.bundles import write_forecaster

CREATE = {"model": "load", "session": "s", "start": "2016-08-22"}


@pytest.fixture
def disk(tmp_path):
    """A file system of its own; it takes root, which CI has."""
    if os.geteuid() != 0:
        pytest.skip("a small disk can only be mounted by root: run the tests as root")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path) -> Path:
    """Write until there is no room at all."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 -- the disk must be what refuses
    return filler


@contextmanager
def server_on(disk, tmp_path, durability):
    write_forecaster(tmp_path / "models")
    store = f"sqlite:///{disk}/carry.db"
    with (
        running_server(
            tmp_path, models=tmp_path / "models", store=store, durability=durability
        ) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        yield client


def assert_refused(answer, what):
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert what in answer.json()["detail"], answer.text
    assert "disk/carry.db" not in answer.text


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_full_disk_is_told_keeps_nothing_half_and_goes_on_with_room(tmp_path, disk, durability):
    with server_on(disk, tmp_path, durability) as client:
        client.post("/v1/sessions", json=CREATE).raise_for_status()
        body = {"step": 0, "observations": [[1, 2]]}
        for _ in range(2):  # the second time the log was begun anew meanwhile, or is longer
            filler = fill(disk)
            refused = client.post("/v1/sessions/s/steps", json=body)
            assert_refused(refused, "the disk of the session store is full")
            assert_refused(client.get("/readyz"), "full")
            other = CREATE | {"session": "other"}
            assert_refused(client.post("/v1/sessions", json=other), "full")
            assert client.get("/v1/sessions/other").status_code == 404
            assert client.get("/v1/sessions/s").json()["step"] == body["step"]
            assert client.get("/healthz").status_code == 200
            filler.unlink()
            answer = client.post("/v1/sessions/s/steps", json=body).raise_for_status()
            assert answer.json()["step"] == body["step"] + 1
            assert "idempotent-replayed" not in answer.headers
            assert client.get("/readyz").status_code == 200
            body["step"] += 1


def test_a_read_only_disk_stops_the_start_and_says_so(tmp_path, disk):
    with server_on(disk, tmp_path, "power") as client:
        client.post("/v1/sessions", json=CREATE).raise_for_status()
    before = (disk / "carry.db").read_bytes()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(AssertionError) as caught:  # noqa: SIM117 -- the error comes from inside
        with server_on(disk, tmp_path, "power"):
            pass
    assert "CARRY_STORE: cannot use" in str(caught.value)
    assert "expected a writable folder" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert (disk / "carry.db").read_bytes() == before
    with server_on(disk, tmp_path, "power") as client:
        assert client.get("/v1/sessions/s").json()["step"] == 0
