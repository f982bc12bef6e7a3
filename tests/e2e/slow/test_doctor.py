"""`python -m service doctor` finds what was planted, says what to do, and tells no secret."""

import os
import socket
import subprocess
import sys
from collections import namedtuple

import pytest

from service import diagnosis
from service.settings import Settings
from tests.api.keys import keys_file
from tests.e2e.server import ROOT
from tests.fakes.bundles import write_forecaster

SECRET = "hunter2hunter2"


@pytest.fixture
def sound(tmp_path):
    """Settings of a service without failures."""
    write_forecaster(tmp_path / "models")
    keys, _ = keys_file(tmp_path, root="admin")
    (tmp_path / "snapshot.keys").write_text("s" * 32)
    for name in ("keys.toml", "snapshot.keys"):
        (tmp_path / name).chmod(0o600)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "CARRY_PORT": str(port),
        "CARRY_MODELS": str(tmp_path / "models"),
        "CARRY_STORE": f"sqlite:///{tmp_path}/carry.db",
        "CARRY_API_KEYS_FILE": str(keys),
        "CARRY_SNAPSHOT_KEY_FILE": str(tmp_path / "snapshot.keys"),
        "CARRY_MAX_CONNECTIONS": "100",
    }


def doctor(settings):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CARRY_")}
    command = [sys.executable, "-m", "service", "doctor"]
    return subprocess.run(command, cwd=ROOT, env=kept | settings, capture_output=True, text=True)


def test_a_sound_service_has_no_failures(sound):
    told = doctor(sound)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "no failures" in told.stdout
    for what in ("settings", "address", "open files", "keys", "snapshot key", "store",
                 "durability", "clock", "disk", "provider", "model load/1"):  # fmt: skip
        assert f"ok    {what} " in told.stdout, what
    assert "\nfail" not in told.stdout


def change_a_byte(folder):
    path = next(folder.glob("models/*/*/model.onnx"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def link_the_graph_elsewhere(folder):
    path = next(folder.glob("models/*/*/model.onnx"))
    path.rename(folder / "elsewhere.onnx")
    path.write_bytes(b"")


def occupy(folder):
    (folder / "carry.db").mkdir()


PLANTED = {
    "a setting that is none": ({"CARRY_PROT": "1"}, None, "settings", "CARRY_PORT"),
    "a value that does not fit": ({"CARRY_PORT": "high"}, None, "settings", "CARRY_PORT"),
    "no models folder": ({"CARRY_MODELS": "/nowhere"}, None, "models", "CARRY_MODELS"),
    "an empty models folder": ({"CARRY_MODELS": "{}"}, None, "models", "none is loaded"),
    "a changed graph": ({}, change_a_byte, "model load/1", "SHA-256"),
    "an empty graph": ({}, link_the_graph_elsewhere, "model load/1", "SHA-256"),
    "a store that is a folder": ({}, occupy, "store", "carry.db"),
    "a store that is away": (
        {"CARRY_STORE": f"redis://:{SECRET}@127.0.0.1:1"}, None, "store", ""),
    "a keys file that is away": (
        {"CARRY_API_KEYS_FILE": "/nowhere.toml"}, None, "keys", "cannot be read"),
    "no valid key": (
        {}, lambda f: (f / "keys.toml").write_text(""), "keys", "at least one key"),
    "keys that others may change": (
        {}, lambda f: (f / "keys.toml").chmod(0o666), "keys file", "mode"),
    "a short snapshot key": (
        {}, lambda f: (f / "snapshot.keys").write_text(SECRET), "snapshot key", "at least"),
    "a snapshot key for everybody": (
        {}, lambda f: (f / "snapshot.keys").chmod(0o644), "snapshot key", "mode"),
    "too few open files": (
        {"CARRY_MAX_CONNECTIONS": "1000000"}, None, "open files", "ulimit -n"),
    "a provider that is not installed": ({"CARRY_PROVIDER": "cuda"}, None, "models", "cuda"),
}  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED)
def test_what_was_planted_is_found(sound, tmp_path, planted):
    changed, plant, what, said = PLANTED[planted]
    (tmp_path / "empty").mkdir()
    changed = {
        name: value.replace("{}", str(tmp_path / "empty")) for name, value in changed.items()
    }
    if plant is not None:
        plant(tmp_path)
    told = doctor(sound | changed)
    assert told.returncode == 1, told.stdout + told.stderr
    failed = [line for line in told.stdout.splitlines() if line.startswith("fail")]
    assert [line for line in failed if line[6:].startswith(what + " ")], told.stdout
    assert said in told.stdout
    assert "→" in told.stdout
    assert SECRET not in told.stdout + told.stderr
    assert "Traceback" not in told.stderr


def test_a_port_that_is_taken_is_found(sound):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        told = doctor(sound | {"CARRY_PORT": str(other.getsockname()[1])})
    assert told.returncode == 1
    assert "fail  address " in told.stdout


def findings(settings):
    return {
        finding.what: finding
        for finding in diagnosis.diagnose(
            Settings(**{n[6:].lower(): v for n, v in settings.items()})
        )
    }


def test_a_disk_that_is_nearly_full_and_a_clock_that_is_wrong_are_found(sound, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(diagnosis.shutil, "disk_usage", lambda _: usage(9, 9, 2**20))
    monkeypatch.setattr(diagnosis.time, "time", lambda: 86400.0)
    found = findings(sound)
    assert (found["disk"].status, found["clock"].status) == ("fail", "fail")


def test_a_service_that_is_open_to_all_is_pointed_out(sound):
    del sound["CARRY_API_KEYS_FILE"]
    found = findings(sound | {"CARRY_HOST": "0.0.0.0", "CARRY_DURABILITY": "process"})
    assert (found["address"].status, found["durability"].status) == ("warn", "warn")


def test_processes_that_do_not_hear_of_loads_and_unloads_are_pointed_out(sound):
    several = sound | {"CARRY_WORKERS": "2"}
    assert "models watched" not in findings(sound | {"CARRY_MODELS_POLL_S": "0"})
    assert "models watched" not in findings(several)
    assert findings(several | {"CARRY_MODELS_POLL_S": "0"})["models watched"].status == "warn"
