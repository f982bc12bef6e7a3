"""Checks a file of the session store, offline or of a backup.

Rule 1: nothing is written, not even when the file is closed, so that damage stays as it was found.
Rule 2: each problem names its location; a damaged record or page does not hide the others.
"""

from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import apsw

from service.errors import RecordUnreadableError, StartUpError
from service.stores.record.checksummed import decode_record
from service.stores.record.record import Key
from service.stores.sqlite.connection import connected, rows_of
from service.stores.sqlite.errors import FAILURES, UNUSABLE
from service.stores.sqlite.file import refuse_foreign_file

_MAX_PROBLEMS = 100
_PAGE_ROWS = 1000

_SELECT_PAGE = """
SELECT sessions.id, COALESCE(CAST(tenant AS BLOB), x''), COALESCE(CAST(name AS BLOB), x''), opening,
    sessions.checksum, data, states.checksum
FROM sessions LEFT JOIN states USING (id) WHERE sessions.id > ? ORDER BY sessions.id LIMIT ?
"""


class CheckResult(NamedTuple):
    """The number of sessions, including closed ones, and the first 100 problems."""

    num_sessions: int
    problems: list[str]


def path_of(url: str) -> Path:
    """The path in `sqlite:///PATH`.

    Raises:
        StartUpError: another kind of store, or a missing file.
    """
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc or len(parts.path) < 2:
        raise StartUpError(
            f"{url!r} is not a file of sessions: expected sqlite:///PATH (sqlite:////PATH for an"
            " absolute path)"
        )
    path = Path(parts.path[1:])
    if not path.is_file():
        raise StartUpError(f"{path} does not exist: expected the file of a session store")
    return path


def open_to_read(path: Path) -> apsw.Connection:
    """Open read-only; without a log as immutable, which creates no files beside it."""
    has_log = path.with_name(path.name + "-wal").exists()
    uri = f"{path.absolute().as_uri()}?{'mode=ro' if has_log else 'immutable=1'}"
    return connected(uri, apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


def check_file(path: Path) -> CheckResult:
    """Read every page and every record.

    Raises:
        StartUpError: it belongs to another program or a later service.
    """
    try:
        with closing(open_to_read(path)) as db:
            refuse_foreign_file(db, path)
            rows = rows_of(db, f"PRAGMA integrity_check({_MAX_PROBLEMS})")
            problems = [f"file: {row[0]}" for row in rows if row[0] != "ok"]
            num_sessions, of_records = _check_records(db)
    except UNUSABLE as error:
        return CheckResult(0, [f"file: {error}; expected an SQLite file of this service"])
    return CheckResult(num_sessions, [*problems, *of_records][:_MAX_PROBLEMS])


def _check_records(db: apsw.Connection) -> tuple[int, list[str]]:
    num_sessions, last, problems = 0, 0, list[str]()
    while True:
        try:
            rows = rows_of(db, _SELECT_PAGE, (last, _PAGE_ROWS))
        except FAILURES as error:
            problems.append(f"sessions after id {last}: {error}; they were not read")
            return num_sessions, problems
        for _, tenant, name, *parts in rows:
            num_sessions += 1
            key = Key(tenant.decode(errors="replace"), name.decode(errors="replace"))
            problem = _problem_of(key, *parts)
            if problem is not None:
                problems.append(f"session {key.name!r} of tenant {key.tenant!r}: {problem}")
        if len(rows) < _PAGE_ROWS:
            return num_sessions, problems
        last = rows[-1][0]


def _problem_of(
    key: Key, header: bytes, header_checksum: int, data: bytes | None, data_checksum: int
) -> str | None:
    if data is None:
        return "its state is missing"
    try:
        record = decode_record(header, header_checksum, data, data_checksum)
    except RecordUnreadableError as error:
        return error.detail
    if record.key != key:
        return f"its record belongs to session {record.key.name!r} of tenant {record.key.tenant!r}"
    return None
