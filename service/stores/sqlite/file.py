"""One connection to the SQLite file of the session store: its tables and queries.

Rule 1: a step writes one row of `states`, found by its rowid, and no index.
Rule 2: `sessions.due_at` is a lower bound of the expiry. A step does not write it; the sweeper
        compares `states.expires_at` and reschedules `due_at`.
Rule 3: used from one thread at a time.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import apsw

from service.errors import StartUpError
from service.stores.base import TOMBSTONE_S, Expired, Usage, Write
from service.stores.record.checksummed import checksum, decode_record, encode_header
from service.stores.record.record import Key, Record, SessionHeader, revision_of, ttl_s_of
from service.stores.sqlite.connection import (
    Transaction,
    close,
    connected,
    num_bytes_of,
    num_log_frames_of,
    rows_of,
    wait_at_most,
    write_ahead,
)
from service.stores.sqlite.errors import UNUSABLE
from service.stores.sqlite.log_size import TRUNCATED_BYTES

_APPLICATION_ID: Final = 0x43525259  # "CRRY"
_SCHEMA_VERSION: Final = 1
# Of 4, 8 and 16 kB: the fastest for groups of neighbouring rows, and not slow for scattered ones.
PAGE_BYTES: Final = 8192

_SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS sessions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        model TEXT NOT NULL,
        version TEXT NOT NULL,
        due_at REAL NOT NULL,
        checksum INTEGER NOT NULL,
        opening BLOB NOT NULL,
        UNIQUE (tenant, name)
    )""",
    "CREATE INDEX IF NOT EXISTS sessions_by_due ON sessions (due_at)",
    """CREATE TABLE IF NOT EXISTS states (
        id INTEGER PRIMARY KEY,
        revision BLOB NOT NULL,
        expires_at REAL NOT NULL,
        closed TEXT NOT NULL,
        checksum INTEGER NOT NULL,
        data BLOB NOT NULL
    )""",
    "CREATE TABLE IF NOT EXISTS named_values (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
)

_STEP: Final = """
UPDATE states SET revision = ?, expires_at = ?, closed = ?, checksum = ?, data = ?
WHERE id = ? AND revision = ? AND closed = '' AND expires_at > ?
"""

_CREATE: Final = """
INSERT INTO sessions (tenant, name, model, version, due_at, checksum, opening)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (tenant, name) DO UPDATE SET model = excluded.model, version = excluded.version,
    due_at = excluded.due_at, checksum = excluded.checksum, opening = excluded.opening
WHERE NOT EXISTS
    (SELECT 1 FROM states WHERE states.id = sessions.id AND closed = '' AND expires_at > ?)
RETURNING id
"""

_UPDATE_HEADER: Final = """
UPDATE sessions SET model = ?, version = ?, due_at = ?, checksum = ?, opening = ? WHERE id = ?
"""

_SELECT_RECORD: Final = """
SELECT opening, sessions.checksum, data, states.checksum, expires_at, sessions.id
FROM sessions JOIN states USING (id)
"""

_LIST: Final = f"""{_SELECT_RECORD}
WHERE tenant = ? AND name > ? AND closed = '' AND expires_at > ? AND (? IS NULL OR model = ?)
ORDER BY name LIMIT ?
"""

_USAGE: Final = """
SELECT COUNT(*), COALESCE(SUM(LENGTH(opening) + LENGTH(data)), 0)
FROM sessions JOIN states USING (id) WHERE tenant = ? AND closed = '' AND expires_at > ?
"""

_DUE: Final = """
SELECT id, tenant, name, model, version, closed, expires_at
FROM sessions JOIN states USING (id) WHERE due_at <= ? ORDER BY due_at LIMIT ?
"""


class SqliteFile:
    """One connection to the file."""

    def __init__(self, path: Path, clock: Callable[[], float], busy_timeout_s: float) -> None:
        self._path = path
        self._clock = clock
        self._busy_timeout_s = busy_timeout_s
        self._db: apsw.Connection

    def connect(self) -> None:
        """Open or create the file.

        Raises:
            StartUpError: it cannot be used as a session store.
        """
        try:
            # One folder only, such as var/, so that a mistyped path is an error, not a new tree.
            self._path.parent.mkdir(exist_ok=True)
            self._db = connected(self._path)
            refuse_foreign_file(self._db, self._path)
            self._db.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # applies to a new file only
            write_ahead(self._db)
            # WriteAheadLog syncs the log and starts checkpoints.
            self._db.execute("PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0")
            self._db.execute(f"PRAGMA journal_size_limit = {TRUNCATED_BYTES}")
            # Checked again under the lock, because another process may be creating the file.
            with Transaction(self._db):
                refuse_foreign_file(self._db, self._path)
                for statement in _SCHEMA:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            wait_at_most(self._db, self._busy_timeout_s)
        except UNUSABLE as error:
            raise StartUpError(
                f"CARRY_STORE: cannot use {self._path} as the session store ({error});"
                " expected a writable folder and an SQLite file of this service; to find damage,"
                " run python -m service check-store, and restore a backup"
            ) from None

    def call_on_commit(self, call: Callable[[apsw.Connection, str, int], int]) -> None:
        """Call it after each commit of this connection, on its thread, with the log's frames."""
        self._db.set_wal_hook(call)

    def close(self, *, may_checkpoint: bool = True) -> None:
        close(self._db, may_checkpoint=may_checkpoint)

    def count_bytes(self) -> int:
        return num_bytes_of(self._db)

    def count_log_frames(self) -> int:
        return num_log_frames_of(self._db)

    def load(self, key: Key) -> Record | None:
        rows = rows_of(self._db, f"{_SELECT_RECORD} WHERE tenant = ? AND name = ?", key)
        return decode_record(*rows[0]) if rows else None

    def commit(self, writes: Sequence[Write]) -> list[Record | None]:
        """Write a group in one transaction, without a sync."""
        with Transaction(self._db):
            now = self._clock()
            steps = [(header, data, base) for header, data, base in writes if base is not None]
            stepped = iter(self._commit_steps(steps, now))
            return [
                self._create(header, data, now) if base is None else next(stepped)
                for header, data, base in writes
            ]

    def list_live(
        self, tenant: str, model: str | None, after: str, limit: int
    ) -> list[Callable[[], Record]]:
        """Live records by name, as calls that decode one each, so that each may fail alone."""
        rows = rows_of(self._db, _LIST, (tenant, after, self._clock(), model, model, limit))
        return [partial(decode_record, *row) for row in rows]

    def usage(self, tenant: str) -> Usage:
        [row] = rows_of(self._db, _USAGE, (tenant, self._clock()))
        return Usage(*row)

    def sweep(self, limit: int) -> list[Expired]:
        """Check all sessions that are due; remove at most `limit`."""
        before = self._clock() - TOMBSTONE_S
        expired: list[Expired] = []
        while len(expired) < limit:
            with Transaction(self._db):
                num_rows = limit - len(expired)
                due = rows_of(self._db, _DUE, (before, num_rows))
                over = [row for row in due if row[-1] <= before]
                self._reschedule([(row[-1], row[0]) for row in due if row[-1] > before])
                ids = [(row[0],) for row in over]
                self._db.executemany("DELETE FROM states WHERE id = ?", ids)
                self._db.executemany("DELETE FROM sessions WHERE id = ?", ids)
            expired += [Expired(Key(*row[1:3]), *row[3:6]) for row in over]
            if len(due) < num_rows:
                break
        return expired

    def read_value(self, name: str) -> bytes:
        rows = rows_of(self._db, "SELECT value FROM named_values WHERE name = ?", (name,))
        return bytes(rows[0][0]) if rows else b""

    def swap_value(self, name: str, old: bytes, new: bytes) -> bool:
        with Transaction(self._db):
            if self.read_value(name) != old:
                return False
            self._db.execute("INSERT OR REPLACE INTO named_values VALUES (?, ?)", (name, new))
        return True

    def check(self) -> None:
        """Write a page without a change, which fails on a full disk."""
        with Transaction(self._db):
            self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")

    def _commit_steps(
        self, steps: list[tuple[SessionHeader, bytes, Record]], now: float
    ) -> list[Record | None]:
        if not steps:
            return []
        records = [
            Record(header, data, now + ttl_s_of(data), base.rowid) for header, data, base in steps
        ]
        rows = [
            (
                revision_of(data), record.expires_at, record.closed, checksum(data), data,
                base.rowid, revision_of(base.data), now,
            )
            for record, (_, data, base) in zip(records, steps, strict=True)
        ]  # fmt: skip
        before = self._db.total_changes()
        self._db.executemany(_STEP, rows)
        num_written = self._db.total_changes() - before
        written: list[Record | None] = list(records)
        if num_written != len(records):
            written = [record if self._is_stored(record) else None for record in records]
        self._reschedule(
            [(each.expires_at, each.rowid) for each in written if each and each.closed]
        )
        for record, (header, _, base) in zip(written, steps, strict=True):
            if header is not base.header and record is not None:
                self._update_header(record)
        return written

    def _update_header(self, record: Record) -> None:
        """Replace the header of a session."""
        header = record.header
        encoded = encode_header(header)
        values = header.model, header.version, record.expires_at, checksum(encoded), encoded
        self._db.execute(_UPDATE_HEADER, (*values, record.rowid))

    def _reschedule(self, due: list[tuple[float, int]]) -> None:
        """Set when sessions are due: (time, id) each."""
        if due:
            self._db.executemany("UPDATE sessions SET due_at = ? WHERE id = ?", due)

    def _is_stored(self, record: Record) -> bool:
        query = "SELECT 1 FROM states WHERE id = ? AND revision = ?"
        return bool(rows_of(self._db, query, (record.rowid, record.revision)))

    def _create(self, header: SessionHeader, data: bytes, now: float) -> Record | None:
        expires_at = now + ttl_s_of(data)
        encoded = encode_header(header)
        row = (
            header.tenant, header.name, header.model, header.version, expires_at,
            checksum(encoded), encoded, now,
        )  # fmt: skip
        created = rows_of(self._db, _CREATE, row)
        if not created:
            return None
        record = Record(header, data, expires_at, created[0][0])
        self._db.execute(
            "INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?, ?, ?)",
            (record.rowid, record.revision, expires_at, "", checksum(data), data),
        )
        return record


def refuse_foreign_file(db: apsw.Connection, path: Path) -> None:
    """Raise StartUpError if the file belongs to another program or a later service."""
    # One statement, so that another process cannot change the file between its parts.
    [(application_id, version, num_tables)] = rows_of(
        db,
        "SELECT (SELECT application_id FROM pragma_application_id),"
        " (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_master)",
    )
    if num_tables and application_id != _APPLICATION_ID:
        raise StartUpError(
            f"CARRY_STORE: {path} is a database of another program; choose another file"
        )
    if version > _SCHEMA_VERSION:
        raise StartUpError(
            f"CARRY_STORE: {path} has schema {version}, this service supports up to"
            f" {_SCHEMA_VERSION}: a later service wrote it; upgrade this one"
        )
