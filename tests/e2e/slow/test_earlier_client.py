"""The client of the earlier service works with the one of today, and the reverse."""

import json
import secrets
import subprocess
import sys

import pytest

from tests.e2e.earlier_service import unpack_earlier_service, write_its_bundles
from tests.e2e.server import ROOT, running_server

PROGRAM = """
import json, sys
from service.client import Client, ProblemError, SessionClosedError

ROWS = [[float(number % 7), None if number % 5 == 0 else 1.5] for number in range(24)]
START = "2016-08-22"
means = []
with Client(sys.argv[1]) as client:
    assert client.ready()
    models = sorted(model["name"] for model in client.models())
    first, second = [
        client.open("load", session=name, history={"start": START, "observations": ROWS[:4]},
                    checkpoints=4)
        for name in ("first", "second")
    ]
    for row in ROWS[4:8]:
        means.append(first.preview([row]).prediction["mean"])
        means.append(first.step([row]).prediction["mean"])
    first.rewind(7)
    first = client.resume("first")
    means.append(first.step([ROWS[7]]).prediction["mean"])
    with first.stream() as stream:
        means += [reply.prediction["mean"] for reply in stream.replies([row] for row in ROWS[8:16])]
    branch = first.fork("branch")
    for row in ROWS[16:24]:
        replies = client.step_many([(first, [row]), (second, [row])])
        means += [reply.prediction["mean"] for reply in replies]
    whole = client.predict("load", [{"start": START, "observations": ROWS}])[0]["mean"]
    names = [session["session"] for session in client.sessions()]
    restored = client.restore("restored", first.snapshot())
    means.append(restored.preview([ROWS[0]]).prediction["mean"])
    try:
        client.open("nowhere")
    except ProblemError as problem:
        refused = problem.code
    branch.close()
    try:
        branch.step([ROWS[0]])
    except SessionClosedError:
        closed = True
    print(json.dumps([models, means, whole, names, refused, closed, first.count]))
"""


def answers(client_root, url):
    command = [sys.executable, "-c", PROGRAM, url]
    done = subprocess.run(
        command, cwd=client_root, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Of both sources, with the bundles of the earlier one."""
    folder = tmp_path_factory.mktemp("clients")
    (folder / "earlier").mkdir()
    unpack_earlier_service("one-folder", folder / "earlier")
    write_its_bundles(folder / "earlier", folder / "models")
    return {"earlier": folder / "earlier", "today": ROOT, "models": folder / "models"}


def test_each_client_is_answered_alike_by_each_service(roots, tmp_path):
    keys = tmp_path / "snapshot.keys"
    keys.write_text(secrets.token_hex(32))
    settings = {"models": roots["models"], "store": "memory://", "snapshot_key_file": keys}
    found = {}
    for service in ("earlier", "today"):
        for client in ("earlier", "today"):
            folder = tmp_path / f"{service}-{client}"
            folder.mkdir()
            with running_server(folder, root=roots[service], **settings) as server:
                found[service, client] = answers(roots[client], server.url)
    expected = found["earlier", "earlier"]
    assert expected[1][-2] != expected[1][0]
    assert expected[2] == pytest.approx(expected[1][-3], abs=1e-4)
    assert all(answer == expected for answer in found.values()), found
