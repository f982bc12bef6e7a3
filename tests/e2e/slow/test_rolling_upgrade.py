"""While services are replaced one by one, an old and a new one share a store.

Sessions cross over both ways, or are refused clearly, and are never guessed at.
"""

import secrets

import httpx
import pytest

from tests.e2e.earlier_service import unpack_earlier_service, write_its_bundles
from tests.e2e.server import running_server
from tests.engine.support import rows

START = "2016-08-22"
CREATE = {"model": "load", "start": START}
ROW = {"observations": [[1.0, 2.0]]}


@pytest.fixture(scope="module", params=["format-1", "one-folder"])
def clients(request, tmp_path_factory):
    """Of the old service and of the new one, beside each other on one file."""
    folder = tmp_path_factory.mktemp("rolling")
    root = folder / "earlier"
    root.mkdir()
    unpack_earlier_service(request.param, root)
    write_its_bundles(root, folder / "models")
    settings = {
        "models": folder / "models",
        "store": f"sqlite:///{folder}/carry.db",
        "durability": "process",
    }
    if request.param != "format-1":  # it had no snapshots
        settings["snapshot_key_file"] = folder / "snapshot.keys"
        settings["snapshot_key_file"].write_text(secrets.token_hex(32))
    for name in ("old", "new"):
        (folder / name).mkdir()
    with (
        running_server(folder / "old", root=root, **settings) as old,
        running_server(folder / "new", **settings) as new,
        httpx.Client(base_url=old.url) as old_client,
        httpx.Client(base_url=new.url) as new_client,
    ):
        yield old_client, new_client


only_format_1 = pytest.mark.parametrize("clients", ["format-1"], indirect=True)
of_today = pytest.mark.parametrize("clients", ["one-folder"], indirect=True)


def opened(client, name, **fields):
    return client.post("/v1/sessions", json=CREATE | {"session": name} | fields).raise_for_status()


def step(client, name, body=ROW, **headers):
    return client.post(f"/v1/sessions/{name}/steps", json=body, headers=headers)


def assert_refused(answer):
    """In words that say what to do, and with nothing applied."""
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:carry:record-unreadable")
    assert "format 2, this service reads up to 1" in answer.json()["detail"]
    assert "upgrade this one" in answer.json()["detail"]


@pytest.mark.parametrize("first", [0, 1], ids=["opened by the old", "opened by the new"])
def test_a_plain_session_is_stepped_by_both_in_turns_and_its_retries_are_known(clients, first):
    name = f"plain-{first}"
    values = [[None if v != v else float(v) for v in row] for row in rows(8)]
    opened(clients[first], name, replay=2, metadata={"a": 1})
    for count, row in enumerate(values):
        body = {"step": count, "observations": [row]}
        here, there = clients[(first + count) % 2], clients[(first + count + 1) % 2]
        answer = step(here, name, body).raise_for_status()
        again = step(there, name, body)
        assert again.headers["idempotent-replayed"] == "true"
        assert again.content == answer.content
    instance = {"start": START, "observations": values}
    for client in clients:
        whole = client.post("/v1/models/load/predict", json={"instances": [instance]}).json()
        expected = whole["predictions"][0]["mean"]
        assert answer.json()["prediction"]["mean"] == pytest.approx(expected, abs=1e-4)
        assert client.get(f"/v1/sessions/{name}").json()["step"] == 8


def test_a_text_cut_inside_a_word_crosses_over_and_back(clients):
    old, new = clients
    old.post("/v1/sessions", json={"model": "mood", "session": "text"}).raise_for_status()
    for count, (client, text) in enumerate(((old, "a won"), (new, "derf"), (old, "ul film"))):
        answer = step(client, "text", {"step": count, "text": text}).raise_for_status()
    body = {"instances": [{"text": "a wonderful film"}]}
    whole = new.post("/v1/models/mood/predict", json=body).json()["predictions"][0]
    assert answer.json()["prediction"]["probabilities"] == pytest.approx(whole["probabilities"])


def test_a_fork_and_a_close_cross_over(clients):
    old, new = clients
    opened(old, "source")
    step(old, "source").raise_for_status()
    new.post("/v1/sessions/source/fork", json={"session": "branch"}).raise_for_status()
    one, other = [step(old, name).raise_for_status().json() for name in ("source", "branch")]
    assert one["prediction"] == other["prediction"]
    old.delete("/v1/sessions/branch").raise_for_status()
    assert step(new, "branch").json()["type"] == "urn:carry:session-closed"
    new.delete("/v1/sessions/source").raise_for_status()
    assert step(old, "source").json()["type"] == "urn:carry:session-closed"


@only_format_1
def test_a_session_that_keeps_its_past_is_refused_by_the_old_and_goes_on_at_the_new(clients):
    old, new = clients
    opened(new, "keeps", checkpoints=2)
    step(new, "keeps").raise_for_status()
    for answer in (step(old, "keeps"), old.get("/v1/sessions/keeps")):
        assert_refused(answer)
    listed = {each["session"] for each in old.get("/v1/sessions").json()["sessions"]}
    assert "keeps" not in listed
    assert new.get("/v1/sessions/keeps").json()["checkpoints"] == [0]
    assert step(new, "keeps").json()["step"] == 2


@only_format_1
def test_a_keyed_step_keeps_the_old_away_until_the_next_plain_one(clients):
    old, new = clients
    opened(old, "keyed")
    step(old, "keyed").raise_for_status()
    step(new, "keyed", **{"Idempotency-Key": "k"}).raise_for_status()
    assert_refused(step(old, "keyed"))
    assert step(new, "keyed", **{"Idempotency-Key": "k"}).headers["idempotent-replayed"] == "true"
    assert step(new, "keyed").json()["step"] == 3
    assert step(old, "keyed").json()["step"] == 4


@of_today
@pytest.mark.parametrize("first", [0, 1], ids=["opened by the old", "opened by the new"])
def test_past_states_and_keys_cross_over_both_ways(clients, first):
    name, one, other = f"past-{first}", clients[first], clients[1 - first]
    opened(one, name, checkpoints=4)
    answers = [
        step(client, name, **{"Idempotency-Key": f"k{count}"}).raise_for_status()
        for count, client in enumerate((one, other, one))
    ]
    again = step(other, name, **{"Idempotency-Key": "k2"})
    assert again.headers["idempotent-replayed"] == "true"
    assert again.content == answers[2].content
    other.post(f"/v1/sessions/{name}/rewind", json={"step": 1}).raise_for_status()
    for client, before in ((one, answers[1]), (other, answers[2])):
        repeated = step(client, name).raise_for_status().json()
        assert repeated["prediction"] == before.json()["prediction"]
        assert repeated["step"] == before.json()["step"]


@of_today
@pytest.mark.parametrize("first", [0, 1], ids=["of the old", "of the new"])
def test_a_snapshot_of_one_is_restored_by_the_other(clients, first):
    name, one, other = f"snap-{first}", clients[first], clients[1 - first]
    opened(one, name)
    step(one, name).raise_for_status()
    snapshot = one.get(f"/v1/sessions/{name}/snapshot").raise_for_status().content
    url = f"/v1/sessions/{name}-restored/snapshot"
    kind = {"Content-Type": "application/vnd.carry.snapshot"}
    other.put(url, content=snapshot, headers=kind).raise_for_status()
    expected = step(one, name).raise_for_status().json()["prediction"]
    assert step(other, f"{name}-restored").raise_for_status().json()["prediction"] == expected
