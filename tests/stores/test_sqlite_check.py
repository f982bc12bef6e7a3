"""A damaged file is refused or served, with a report of what is wrong and where."""

import apsw
import pytest

from service.errors import RecordUnreadableError, StartUpError, StoreUnavailableError
from service.stores.record.record import Key
from service.stores.sqlite.check import check_file, path_of
from service.stores.sqlite.store import SqliteStore
from tests.stores.support import after, commit, opened

NUM_SESSIONS = 60


@pytest.fixture
async def path(tmp_path):
    """Sessions on several pages of a closed file."""
    path = tmp_path / "s.db"
    store = SqliteStore.open(path, "process")
    await opened(store, *[f"s{index:02}" for index in range(NUM_SESSIONS)], outputs=b"o" * 2000)
    await store.close()
    return path


def change(path, statement, *values):
    db = apsw.Connection(str(path))
    found = db.execute(statement, values).fetchall()
    db.close()
    return found


def overwrite(path, start, data):
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def leaf_of_sessions(path):
    """The offset of a page with headers."""
    data = path.read_bytes()
    page = data.index(b'"name":"s30"') // 8192 * 8192
    assert data[page] == 0x0D  # a leaf of a table
    return page


def test_a_good_file_is_whole_and_left_as_it_is(path):
    before = path.read_bytes()
    assert check_file(path) == (NUM_SESSIONS, [])
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["s.db"]


async def test_a_file_that_is_served_is_read_as_it_is_now(path):
    store = SqliteStore.open(path, "process")
    await opened(store, "now")
    assert check_file(path) == (NUM_SESSIONS + 1, [])
    await store.close()


def test_damage_in_the_header_is_refused_and_reported(path):
    overwrite(path, 0, b"SQLite format 2\0")
    with pytest.raises(StartUpError, match=r"not a database.*expected.*check-store.*backup"):
        SqliteStore.open(path, "power")
    [problem] = check_file(path).problems
    assert problem.startswith("file: ")


@pytest.mark.parametrize("damaged", ["opening", "data"])
async def test_a_damaged_record_fails_alone_and_is_named(path, damaged):
    table = {"opening": "sessions", "data": "states"}[damaged]
    [(data,)] = change(path, f"SELECT {damaged} FROM {table} WHERE id = 7")
    flipped = data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]
    change(path, f"UPDATE {table} SET {damaged} = ? WHERE id = 7", flipped)
    num_sessions, [problem] = check_file(path)
    assert num_sessions == NUM_SESSIONS
    assert "session 's06' of tenant 't'" in problem
    assert "expected checksum" in problem
    store = SqliteStore.open(path, "power")
    names = [record.header.name for record in await store.list_live("t", None, "", 99)]
    assert len(names) == NUM_SESSIONS - 1
    for record in await store.list_live("t", None, "", 99):
        assert await commit(store, after(record), record)
    with pytest.raises(RecordUnreadableError, match="expected checksum"):
        await store.load(record.key._replace(name="s06"))
    await store.close()


async def outcome_of(store, name):
    try:
        found = await store.load(Key("t", name))
    except StoreUnavailableError as error:
        return "damaged" if "damaged" in error.detail and "check-store" in error.detail else error
    return "served" if await commit(store, after(found), found) else "lost"


async def test_a_damaged_page_is_an_error_for_its_sessions_and_no_others(path):
    overwrite(path, leaf_of_sessions(path), b"\xff" * 8192)
    assert any("malformed" in problem for problem in check_file(path).problems)
    store = SqliteStore.open(path, "power")
    outcomes = [await outcome_of(store, f"s{index:02}") for index in range(NUM_SESSIONS)]
    assert set(outcomes) == {"served", "damaged"}
    assert outcomes.count("served") > NUM_SESSIONS // 2
    assert outcomes[30] == "damaged"
    await opened(store, "elsewhere")
    await store.close()


async def test_a_damaged_text_is_reported_as_damage(path):
    change(path, "UPDATE sessions SET model = CAST(x'FF' AS TEXT), due_at = 0")
    store = SqliteStore.open(path, "power")
    change(path, "UPDATE states SET expires_at = 0")
    with pytest.raises(StoreUnavailableError, match=r"damaged.*check-store"):
        await store.sweep(10)
    await store.close()
    change(path, "UPDATE sessions SET name = CAST(x'FF' AS TEXT) WHERE id = 7")
    [problem] = check_file(path).problems
    assert (
        problem
        == "session '\ufffd' of tenant 't': its record belongs to session 's06' of tenant 't'"
    )


def test_a_session_without_its_state_is_named(path):
    change(path, "DELETE FROM states WHERE id = 3")
    assert check_file(path) == (NUM_SESSIONS, ["session 's02' of tenant 't': its state is missing"])


def test_a_later_or_a_strange_file_is_refused(path, tmp_path):
    change(path, "PRAGMA user_version = 99")
    with pytest.raises(StartUpError, match=r"has schema 99.*up to 1.*upgrade"):
        check_file(path)
    change(tmp_path / "theirs.db", "CREATE TABLE theirs (x)")
    with pytest.raises(StartUpError, match="another program"):
        check_file(tmp_path / "theirs.db")


@pytest.mark.parametrize("url", ["memory://", "redis://host", "sqlite://", "sqlite:///", "s.db"])
def test_a_file_of_another_kind_is_reported(url):
    with pytest.raises(StartUpError, match="expected sqlite:///PATH"):
        path_of(url)


def test_a_file_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(StartUpError, match="does not exist"):
        path_of(f"sqlite:///{tmp_path}/missing.db")
    assert list(tmp_path.iterdir()) == []
