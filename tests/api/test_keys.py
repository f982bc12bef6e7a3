"""Keys: who is let in, what is answered to the others, and how a key is taken back."""

import hmac
import json
import os
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from service.api.auth.keys import ANYBODY, KeyRing, new_key, read_keys_file
from service.errors import StartUpError
from service.settings import Settings
from tests.api.keys import bearer, keys_file, line_of

FAR = datetime(2100, 1, 1, tzinfo=UTC)


def test_without_a_file_everybody_is_an_admin_of_the_default_tenant():
    ring = KeyRing(None)
    assert ring.find(None) == ring.find(b"Bearer whatever") == ANYBODY
    assert (ANYBODY.tenant, ANYBODY.is_admin, ring.is_open) == ("default", True, True)


def test_a_key_says_tenant_role_and_id(tmp_path):
    path, keys = keys_file(tmp_path, ada="user", root="admin")
    ring = KeyRing(path)
    ada, root = (ring.find(bearer(keys[name])) for name in ("ada", "root"))
    assert (ada.tenant, ada.is_admin, ada.key_id) == ("ada", False, "k-ada")
    assert (root.tenant, root.is_admin) == ("root", True)
    assert ring.find(bearer(keys["ada"]).replace(b"Bearer", b"bEARER")) == ada


def test_what_is_no_key_is_nobody(tmp_path):
    path, keys = keys_file(tmp_path, ada="user")
    right, ring = keys["ada"], KeyRing(path)
    wrong = [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        right.encode(),
        b"Basic " + right.encode(),
        b"Bearer " + right.encode()[:-1],
        b"Bearer " + right.encode() + b"x",
        b"Bearer " + right.upper().encode(),
        b"Bearer \xff\x00",
        b"Bearer " + read_keys_file(path)["k-ada"].sha256.encode(),
    ]
    assert [ring.find(said) for said in wrong] == [None] * len(wrong)


def test_digests_of_one_length_are_compared_whatever_was_sent(tmp_path, monkeypatch):
    """Nothing is decided by comparing what a client chose, byte by byte."""
    path, keys = keys_file(tmp_path, ada="user")
    ring, compared = KeyRing(path), []

    def compare(ours, theirs):
        compared.append((len(ours), len(theirs)))
        return ordinary(ours, theirs)

    ordinary = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    said = [None, b"Bearer x", b"Basic y", bearer(keys["ada"]), b"Bearer " + b"z" * 10_000]
    for each in said:
        ring.find(each)
    assert compared == [(32, 32)] * len(said)


def test_revoked_and_expired_keys_are_nobodys(tmp_path):
    path, keys = keys_file(tmp_path, ada="user", bob="user", eve="user")
    text = path.read_text()
    text = text.replace(line_of(path, "ada"), line_of(path, "ada", revoked=True))
    text = text.replace(line_of(path, "bob"), line_of(path, "bob", expires=FAR))
    path.write_text(text)
    now = FAR.timestamp() - 1
    ring = KeyRing(path, wall_clock=lambda: now)
    assert ring.find(bearer(keys["ada"])) is None
    assert ring.find(bearer(keys["bob"])).tenant == "bob"
    now += 1
    assert ring.find(bearer(keys["bob"])) is None
    assert ring.find(bearer(keys["eve"])).tenant == "eve"


def test_a_change_of_the_file_is_seen_at_the_next_look(tmp_path):
    path, keys = keys_file(tmp_path, ada="user", bob="user")
    ring = KeyRing(path)
    path.write_text(line_of(path, "bob") + "\n")
    assert ring.find(bearer(keys["ada"]))
    ring.look()
    assert ring.find(bearer(keys["ada"])) is None
    assert ring.find(bearer(keys["bob"]))


def make_pipe(path):
    path.unlink()
    os.mkfifo(path)


def make_folder(path):
    path.unlink()
    path.mkdir()


def make_large(path):
    with path.open("r+b") as file:
        file.truncate(1 << 40)


BROKEN = {
    "not finished": ("is not valid TOML", lambda path: path.write_text("k-ada = {")),
    "missing": ("is missing", lambda path: path.unlink()),
    "empty": ("holds no key", lambda path: path.write_text("")),
    "without a key": ("holds no key", lambda path: path.write_text("# none\n")),
    "not UTF-8": ("is not valid TOML", lambda path: path.write_bytes(b"\xff")),
    "a pipe": ("is not a plain file", make_pipe),
    "a folder": ("is not a plain file", make_folder),
    "gigabytes": ("is too large", make_large),
    "nested without end": (
        "is not valid TOML",
        lambda path: path.write_text("a = " + "[" * 100_000),
    ),
    "an unknown member": (
        "holds an invalid entry",
        lambda path: path.write_text(path.read_text().replace("tenant", "tenent")),
    ),
    "a key under two ids": (
        "holds one key twice",
        lambda path: path.write_text(path.read_text() + "other" + path.read_text()),
    ),
}


@pytest.mark.parametrize(("fault", "spoil"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_cannot_be_read_again_leaves_the_keys_and_is_reported(tmp_path, fault, spoil):
    path, keys = keys_file(tmp_path, ada="user")
    good = path.read_text()
    ring = KeyRing(path)
    assert not ring.fault
    spoil(path)
    with capture_logs() as logs:
        ring.look()
        ring.look()
    assert ring.find(bearer(keys["ada"]))
    assert ring.fault == fault
    [logged] = logs
    assert str(path) in logged["problem"]
    with pytest.raises(StartUpError, match="CARRY_API_KEYS_FILE"):
        KeyRing(path)
    other, other_keys = keys_file(tmp_path, name="other.toml", bob="user")
    other.write_text(good + other.read_text())
    if path.is_dir():
        path.rmdir()
    other.replace(path)
    ring.look()
    assert ring.find(bearer(other_keys["bob"]))
    assert not ring.fault


def test_json_serves_as_well(tmp_path):
    key, key_id, entry = new_key("ada", is_admin=True)
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({key_id: {"tenant": entry.tenant, "sha256": entry.sha256}}))
    caller = KeyRing(path).find(bearer(key))
    assert (caller.tenant, caller.is_admin) == ("ada", False)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("k1 = { tenant = 'a', sha256 = 'short' }", "k1.sha256"),
        ("k1 = { tenant = '../a', sha256 = '" + "0" * 64 + "' }", "k1.tenant"),
        ("k1 = { tenant = 'a', rôle = 'x' }", "TOML"),
        ("k1 = { tenant = 'a', sha256 = '" + "0" * 64 + "', roles = 'x' }", "k1.roles"),
        ("k1 = 3", "k1"),
        ("k1 = {", "TOML"),
        ("\n".join(f"k{n} = {{ tenant = 'a', sha256 = '{'0' * 64}' }}" for n in "12"), "same key"),
    ],
)
def test_a_file_that_does_not_fit_stops_the_start_and_says_where(tmp_path, text, told):
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(StartUpError, match="CARRY_API_KEYS_FILE") as caught:
        KeyRing(path)
    assert told in str(caught.value) or told == "TOML"
    assert "0" * 64 not in str(caught.value)


def test_a_missing_file_stops_the_start(tmp_path):
    with pytest.raises(StartUpError, match="cannot be read"):
        KeyRing(tmp_path / "none.toml")


def test_an_empty_setting_means_no_file(monkeypatch):
    monkeypatch.setitem(os.environ, "CARRY_API_KEYS_FILE", "")
    assert Settings().api_keys_file is None
