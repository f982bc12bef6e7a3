"""`deploy/restore.sh` with the real Valkey, in a folder in place of its container."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.project_files import ROOT
from tests.stores.valkey import PROGRAM, SAFE, running_valkey

AT_MOST_S = 60

# Compose without containers: `run` gives the words of the shell to a shell of this machine.
COMPOSE = """#!/bin/sh
printf '%s\\n' "$*" >>{folder}/asked
case $1 in
  ps) case " {running} " in *" $3 "*) echo id ;; esac ;;
  run)
    for words; do :; done
    words=$(printf '%s' "$words" | sed 's#/tmp/#{folder}/#g; s#/data#{data}#g')
    PATH={folder}:{valkey}:$PATH exec sh -euc "$words"
    ;;
esac
"""

CLI = """#!{python}
import socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[2])
    connection.sendall(" ".join(sys.argv[3:]).encode() + b"\\r\\n")
    print(connection.recv(65536).decode())
"""


def write_program(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def restored(
    folder: Path, data: Path, backup: bytes, running: str = "service"
) -> tuple[int, str, list[str]]:
    """The exit status, what was said of errors, and what Compose was asked for."""
    valkey = PROGRAM.parent
    compose = COMPOSE.format(folder=folder, data=data, valkey=valkey, running=running)
    write_program(folder / "compose", compose)
    write_program(folder / "valkey-cli", CLI.format(python=sys.executable))
    (folder / "sessions.rdb").write_bytes(backup)
    answer = subprocess.run(
        ["timeout", str(AT_MOST_S), ROOT / "deploy/restore.sh", folder / "sessions.rdb"],
        env=os.environ | {"COMPOSE": str(folder / "compose")},
        capture_output=True, text=True,
    )  # fmt: skip
    return answer.returncode, answer.stderr, (folder / "asked").read_text().splitlines()


@pytest.fixture(scope="module")
def backup() -> bytes:
    with running_valkey() as server:
        server.ask("SET", "session", "of the backup")
        server.ask("SET", "long", "x" * 100_000 + "y")
        server.ask("SAVE")
        return (server.folder / "dump.rdb").read_bytes()


def test_a_backup_takes_the_place_of_all_that_was_there(tmp_path: Path, backup: bytes) -> None:
    with running_valkey(**SAFE) as server:
        server.ask("SET", "session", "of the log")
        server.ask("SET", "newer", "x")
        server.kill()
        status, said, _ = restored(tmp_path, server.folder, backup)
        assert status == 0, said
        server.start()
        assert server.ask("GET", "session") == b"of the backup"
        assert server.ask("DBSIZE") == 2
        folders = [each.name for each in server.folder.iterdir() if each.is_dir()]
        assert folders == ["appendonlydir"]


def test_a_backup_fills_an_empty_volume(tmp_path: Path, backup: bytes) -> None:
    with running_valkey(**SAFE) as server:
        server.kill()
        subprocess.run(["rm", "-r", server.folder / "appendonlydir"], check=True)
        status, said, _ = restored(tmp_path, server.folder, backup)
        assert status == 0, said
        server.start()
        assert server.ask("GET", "session") == b"of the backup"


@pytest.mark.parametrize("damage", ["nothing", "other", "cut", "changed"])
def test_a_file_that_does_not_load_leaves_everything_as_it_was(
    tmp_path: Path, backup: bytes, damage: str
) -> None:
    middle = len(backup) // 2
    file = {
        "nothing": b"",
        "other": b"no snapshot of Valkey" * 10,
        "cut": backup[:middle],
        "changed": backup[:-8] + bytes(8 * [255]),
    }[damage]
    with running_valkey(**SAFE) as server:
        server.ask("SET", "session", "of the log")
        server.kill()
        status, said, asked = restored(tmp_path, server.folder, file)
        assert status == 1
        assert "sessions are as they were" in said
        assert asked[-1] == "up --detach --no-build --wait valkey service"
        server.start()
        assert server.ask("GET", "session") == b"of the log"
        folders = [each.name for each in server.folder.iterdir() if each.is_dir()]
        assert folders == ["appendonlydir"]


@pytest.mark.parametrize(
    ("running", "replicas"),
    [("service-gpu", "service-gpu"), ("service service-gpu", "service service-gpu"),
     ("", "service")],
)  # fmt: skip
def test_the_replicas_that_run_stop_and_come_back(
    tmp_path: Path, running: str, replicas: str
) -> None:
    data = tmp_path / "volume"
    data.mkdir()
    _, _, asked = restored(tmp_path, data, b"", running=running)
    words = [line for line in asked if line.startswith(("stop", "up"))]
    assert words == [f"stop valkey {replicas}", f"up --detach --no-build --wait valkey {replicas}"]
