"""A backup is complete or absent, and never replaces a file."""

import apsw
import pytest

from service.errors import StartUpError
from service.stores.sqlite import backup as sqlite_backup
from service.stores.sqlite.backup import back_up
from service.stores.sqlite.store import SqliteStore
from tests.stores.support import after, commit, opened


@pytest.fixture
async def store(tmp_path):
    store = SqliteStore.open(tmp_path / "s.db", "power")
    yield store
    await store.close()


@pytest.fixture
def target(tmp_path):
    (tmp_path / "backups").mkdir()
    return tmp_path / "backups" / "b.db"


async def test_a_backup_contains_what_was_stored_before_it_and_continues(tmp_path, store, target):
    one, two = await opened(store, "a", "b")
    step = await commit(store, after(one), one)  # still in the log
    assert back_up(tmp_path / "s.db", target).num_sessions == 2
    assert list(target.parent.iterdir()) == [target]
    restored = SqliteStore.open(target, "power")
    assert await restored.load(one.key) == step
    assert await restored.load(two.key) == two
    assert await commit(restored, after(step), step)
    await restored.close()
    assert await commit(store, after(step), step)  # the store is unchanged


@pytest.mark.parametrize(
    ("error", "told"), [(apsw.FullError, "the disk is full"), (apsw.IOError, "the disk failed")]
)
async def test_a_failed_copy_reports_the_reason_and_leaves_no_file(
    tmp_path, store, target, monkeypatch, error, told
):
    def fail(source, part):
        part.write_text("half")
        raise error("not an error")

    monkeypatch.setattr(sqlite_backup, "_copy", fail)
    with pytest.raises(StartUpError, match=told):
        back_up(tmp_path / "s.db", target)
    assert list(target.parent.iterdir()) == []


async def test_an_existing_file_is_not_overwritten(tmp_path, store, target):
    target.write_text("precious")
    with pytest.raises(StartUpError, match="exists, and a backup"):
        back_up(tmp_path / "s.db", target)
    assert target.read_text() == "precious"
    assert list(target.parent.iterdir()) == [target]


async def test_a_file_created_during_the_backup_is_not_overwritten(
    tmp_path, store, target, monkeypatch
):
    check = sqlite_backup.check_file

    def check_while_another_writes(part):
        target.write_text("precious")
        return check(part)

    monkeypatch.setattr(sqlite_backup, "check_file", check_while_another_writes)
    with pytest.raises(StartUpError, match="exists, and a backup"):
        back_up(tmp_path / "s.db", target)
    assert target.read_text() == "precious"
    assert list(target.parent.iterdir()) == [target]


async def test_a_damaged_store_is_not_backed_up(tmp_path, store, target):
    await opened(store, "a")
    db = apsw.Connection(str(tmp_path / "s.db"))
    db.execute("UPDATE states SET data = x'00'")
    db.close()
    with pytest.raises(StartUpError, match=r"damaged.*checksum.*was removed"):
        back_up(tmp_path / "s.db", target)
    assert list(target.parent.iterdir()) == []


async def test_a_missing_folder_is_reported(tmp_path, store):
    with pytest.raises(StartUpError, match="cannot back"):
        back_up(tmp_path / "s.db", tmp_path / "missing" / "b.db")


async def test_commits_go_on_while_a_backup_reads(tmp_path, store):
    """A reader of the log delays the end of a checkpoint, but not commits."""
    [patience_ms] = store._log._db.execute("PRAGMA busy_timeout").fetchone()
    assert patience_ms <= 100
    [record] = await opened(store, "a")
    reader = apsw.Connection(str(tmp_path / "s.db"))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM states").fetchone()
    step = await commit(store, after(record), record)
    await store._log._restart_log()
    assert await commit(store, after(step), step)
    reader.execute("COMMIT")
    reader.close()
