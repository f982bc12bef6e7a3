"""A copy of the session store's file, taken while it is served.

Rule 1: the copy is one moment of the file: all of it is read in one transaction, for which no
        writer waits. What was acknowledged before the backup began is in it.
Rule 2: the target appears whole, synced and checked, or not at all; nothing is ever overwritten.
"""

import os
from contextlib import closing
from pathlib import Path

import apsw

from service.errors import StartUpError
from service.stores.sqlite.check import Checked, check_file
from service.stores.sqlite.connection import connected
from service.stores.sqlite.errors import UNUSABLE
from service.stores.sqlite.file import refuse_strange_file

# A copy that fails has no words of its own.
_WITHOUT_WORDS: dict[type[Exception], str] = {
    apsw.FullError: "the disk is full",
    apsw.IOError: "the disk failed",
}


def back_up(source: Path, target: Path) -> Checked:
    """Copy `source` to `target`, and read the copy.

    Raises:
        StartUpError: the target is there already, a file cannot be used, or the copy is damaged.
    """
    _refuse_existing(target)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _copy(source, part)
        checked = check_file(part)
        if checked.problems:
            raise StartUpError(
                f"the copy of {source} is damaged, as the file itself may be"
                f" ({checked.problems[0]}): nothing was kept; python -m service check-store"
                " says what is wrong with the file"
            )
        _sync(part)
        os.link(part, target)  # a rename would replace what somebody else put there meanwhile
    except FileExistsError:
        _refuse_existing(target)
        raise
    except UNUSABLE as error:
        what = _WITHOUT_WORDS.get(type(error), error)
        raise StartUpError(f"cannot back {source} up to {target}: {what}") from None
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            part.with_name(part.name + suffix).unlink(missing_ok=True)
    _sync(target.parent)
    return checked


def _copy(source: Path, part: Path) -> None:
    # Opened as the service does: a file that was not closed well is recovered by that.
    with closing(connected(source, apsw.SQLITE_OPEN_READWRITE)) as db:
        refuse_strange_file(db, source)
        with (
            closing(connected(part)) as copy,
            copy.backup("main", db, "main") as backup,
        ):
            backup.step()  # all of it


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise StartUpError(
            f"{target} is there already, and a backup overwrites nothing: name another file"
        )


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
