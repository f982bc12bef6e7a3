"""A backup is whole or not there, and never in the place of something else."""

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


async def test_a_backup_holds_what_was_kept_before_it_and_goes_on(tmp_path, store, target):
    one, two = await opened(store, "a", "b")
    step = await commit(store, after(one), one)  # still in the log
    assert back_up(tmp_path / "s.db", target).num_sessions == 2
    assert list(target.parent.iterdir()) == [target]
    restored = SqliteStore.open(target, "power")
    assert await restored.load(one.key) == step
    assert await restored.load(two.key) == two
    assert await commit(restored, after(step), step)
    await restored.close()
    assert await commit(store, after(step), step)  # the store itself was not touched


@pytest.mark.parametrize(
    ("error", "told"), [(apsw.FullError, "the disk is full"), (apsw.IOError, "the disk failed")]
)
async def test_a_copy_that_fails_says_why_and_leaves_nothing(
    tmp_path, store, target, monkeypatch, error, told
):
    def fail(source, part):
        part.write_text("half")
        raise error("not an error")

    monkeypatch.setattr(sqlite_backup, "_copy", fail)
    with pytest.raises(StartUpError, match=told):
        back_up(tmp_path / "s.db", target)
    assert list(target.parent.iterdir()) == []


async def test_what_is_there_is_never_overwritten(tmp_path, store, target):
    target.write_text("precious")
    with pytest.raises(StartUpError, match="exists, and a backup"):
        back_up(tmp_path / "s.db", target)
    assert target.read_text() == "precious"
    assert list(target.parent.iterdir()) == [target]


async def test_what_appears_during_the_backup_is_not_overwritten_either(
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


async def test_a_damaged_store_makes_no_backup(tmp_path, store, target):
    await opened(store, "a")
    db = apsw.Connection(str(tmp_path / "s.db"))
    db.execute("UPDATE states SET data = x'00'")
    db.close()
    with pytest.raises(StartUpError, match=r"damaged.*checksum.*was removed"):
        back_up(tmp_path / "s.db", target)
    assert list(target.parent.iterdir()) == []


async def test_a_folder_that_is_not_there_is_told(tmp_path, store):
    with pytest.raises(StartUpError, match="cannot back"):
        back_up(tmp_path / "s.db", tmp_path / "missing" / "b.db")


async def test_commits_go_on_while_a_backup_reads(tmp_path, store):
    """A reader of the log holds a checkpoint's end up; commits must not wait for that."""
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
