"""A backup of the session store's file while the service runs.

Rule 1: the copy is a snapshot: one transaction reads the whole file, without delaying writers.
        It contains every write that was acknowledged before the backup started.
Rule 2: the target appears complete, synced and checked, or not at all. Nothing is overwritten.
"""

import os
from contextlib import closing
from pathlib import Path

import apsw

from service.errors import StartUpError
from service.stores.sqlite.check import CheckResult, check_file
from service.stores.sqlite.connection import connected
from service.stores.sqlite.errors import UNUSABLE
from service.stores.sqlite.file import refuse_foreign_file

# apsw raises these from a backup without a message.
_MESSAGES: dict[type[Exception], str] = {
    apsw.FullError: "the disk is full",
    apsw.IOError: "the disk failed",
}


def back_up(source: Path, target: Path) -> CheckResult:
    """Copy `source` to `target`, and check the copy.

    Raises:
        StartUpError: the target exists, a file cannot be used, or the copy is damaged.
    """
    _refuse_existing(target)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _copy(source, part)
        result = check_file(part)
        if result.problems:
            raise StartUpError(
                f"the copy of {source} is damaged ({result.problems[0]}) and was removed; to check"
                " the file itself, run python -m service check-store"
            )
        _sync(part)
        os.link(part, target)  # a rename would overwrite a file that was created meanwhile
    except FileExistsError:
        _refuse_existing(target)
        raise
    except UNUSABLE as error:
        reason = _MESSAGES.get(type(error), error)
        raise StartUpError(f"cannot back {source} up to {target}: {reason}") from None
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            part.with_name(part.name + suffix).unlink(missing_ok=True)
    _sync(target.parent)
    return result


def _copy(source: Path, part: Path) -> None:
    # Opened for writing, because SQLite then recovers a file that was not closed.
    with closing(connected(source, apsw.SQLITE_OPEN_READWRITE)) as db:
        refuse_foreign_file(db, source)
        with (
            closing(connected(part)) as copy,
            copy.backup("main", db, "main") as backup,
        ):
            backup.step()  # all pages


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise StartUpError(
            f"{target} exists, and a backup does not overwrite files: choose another path"
        )


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
