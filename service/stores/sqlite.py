"""Sessions in one SQLite file: the durable store that needs no other server.

Rule 1: one thread owns the connection; every call runs there, in order, and ends when it ends.
Rule 2: a group of writes is one transaction. With durability `power` the log is synced before
        `commit` returns (synchronous=FULL); with `process` it survives a killed process only.
Rule 3: several processes may share the file: each transaction takes the write lock at its start
        and proves every revision under it.
Rule 4: a file of another program, or of a later service, is refused and left untouched.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import structlog

from service.errors import StartUpError, StoreUnavailableError
from service.stores.base import TOMBSTONE_S, Outcome, Swept, Write
from service.stores.record import Key, Record, RecordFormatError, decode_record, encode_record

log = structlog.get_logger()

T = TypeVar("T")

_APPLICATION_ID: Final = 0x43525259  # "CRRY"
_SCHEMA_VERSION: Final = 1
_BUSY_TIMEOUT_S: Final = 5.0
_SYNCHRONOUS: Final = {"power": "FULL", "process": "NORMAL"}

_SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS sessions (
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        model TEXT NOT NULL,
        version TEXT NOT NULL,
        revision BLOB NOT NULL,
        expires_at REAL NOT NULL,
        closed TEXT NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (tenant, name)
    )""",
    "CREATE INDEX IF NOT EXISTS sessions_by_expiry ON sessions (expires_at)",
)

_STEP = """
UPDATE sessions SET version = :version, revision = :revision, expires_at = :expires_at,
    closed = :closed, data = :data
WHERE tenant = :tenant AND name = :name AND revision = :expected AND closed = ''
    AND expires_at > :now
"""

_CREATE = """
INSERT INTO sessions (tenant, name, model, version, revision, expires_at, closed, data)
VALUES (:tenant, :name, :model, :version, :revision, :expires_at, :closed, :data)
ON CONFLICT (tenant, name) DO UPDATE SET model = excluded.model, version = excluded.version,
    revision = excluded.revision, expires_at = excluded.expires_at, closed = excluded.closed,
    data = excluded.data
WHERE sessions.closed <> '' OR sessions.expires_at <= :now
"""

_LIST = """
SELECT data, expires_at FROM sessions
WHERE tenant = ? AND name > ? AND closed = '' AND expires_at > ? AND (? IS NULL OR model = ?)
ORDER BY name LIMIT ?
"""


class SqliteStore:
    """Open with `SqliteStore.open`."""

    def __init__(self, path: Path, durability: str, clock: Callable[[], float]) -> None:
        self.durability = durability
        self._path = path
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._db: sqlite3.Connection

    @classmethod
    def open(
        cls, path: str | Path, durability: str, clock: Callable[[], float] = time.time
    ) -> "SqliteStore":
        """Open or create the file.

        Raises:
            StartUpError: an unknown durability, or a file that cannot be used.
        """
        if durability not in _SYNCHRONOUS:
            raise StartUpError(
                f"CARRY_DURABILITY is {durability!r}: expected one of {sorted(_SYNCHRONOUS)}"
            )
        store = cls(Path(path), durability, clock)
        try:
            store._thread.submit(store._connect).result()
        except BaseException:
            store._thread.shutdown()
            raise
        return store

    async def load(self, key: Key) -> Record | None:
        return await self._call(lambda: self._load(key))

    async def commit(self, writes: Sequence[Write]) -> list[Outcome]:
        return await self._call(lambda: self._commit(writes))

    async def list_live(
        self, tenant: str, model: str | None, after: str, limit: int
    ) -> list[Record]:
        def query() -> list[Record]:
            found = (tenant, after, self._clock(), model, model, limit)
            return [record for row in self._db.execute(_LIST, found) if (record := _read(*row))]

        return await self._call(query)

    async def sweep(self, limit: int) -> list[Swept]:
        return await self._call(lambda: self._sweep(limit))

    async def now(self) -> float:
        return self._clock()

    async def check(self) -> None:
        def take_write_lock() -> None:
            with _Transaction(self._db):
                self._db.execute("PRAGMA user_version").fetchone()

        await self._call(take_write_lock)

    async def close(self) -> None:
        await self._in_thread(lambda: self._db.close())
        self._thread.shutdown()

    # Everything below runs in the store's thread.

    def _connect(self) -> None:
        try:
            # One folder, such as var/: a path mistyped higher up is an error, not a new tree.
            self._path.parent.mkdir(exist_ok=True)
            self._db = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            self._refuse_strange_file()
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[self.durability]}")
            # Looked at again under the lock: another process may be making the same file.
            with _Transaction(self._db):
                self._refuse_strange_file()
                for statement in _SCHEMA:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        except (sqlite3.Error, OSError) as error:
            raise StartUpError(
                f"CARRY_STORE: cannot use {self._path} as the session store ({error});"
                " expected a writable folder and an SQLite file of this service"
            ) from None

    def _refuse_strange_file(self) -> None:
        """One statement, so that no other process can change the file between its parts."""
        [(application_id, version, num_tables)] = self._db.execute(
            "SELECT (SELECT application_id FROM pragma_application_id),"
            " (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_master)"
        )
        if num_tables and application_id != _APPLICATION_ID:
            raise StartUpError(
                f"CARRY_STORE: {self._path} is a database of another program; name another file"
            )
        if version > _SCHEMA_VERSION:
            raise StartUpError(
                f"CARRY_STORE: {self._path} has schema {version}, this service knows up to"
                f" {_SCHEMA_VERSION}: it was written by a later service; upgrade this one"
            )

    def _load(self, key: Key) -> Record | None:
        query = "SELECT data, expires_at FROM sessions WHERE tenant = ? AND name = ?"
        row = self._db.execute(query, key).fetchone()
        return decode_record(*row) if row else None

    def _commit(self, writes: Sequence[Write]) -> list[Outcome]:
        encoded = [encode_record(write.record) for write in writes]
        with _Transaction(self._db):
            now = self._clock()
            return [
                self._commit_one(write, data, now)
                for write, data in zip(writes, encoded, strict=True)
            ]

    def _commit_one(self, write: Write, data: bytes, now: float) -> Outcome:
        record = write.record
        expires_at = now + record.ttl_s
        cursor = self._db.execute(
            _STEP if write.expected else _CREATE,
            {
                "tenant": record.opening.tenant,
                "name": record.opening.name,
                "model": record.opening.model,
                "version": record.opening.version,
                "revision": record.revision,
                "expires_at": expires_at,
                "closed": record.closed,
                "data": data,
                "expected": write.expected,
                "now": now,
            },
        )
        return Outcome(cursor.rowcount == 1, expires_at)

    def _sweep(self, limit: int) -> list[Swept]:
        query = """SELECT tenant, name, model, version, closed FROM sessions
            WHERE expires_at <= ? ORDER BY expires_at LIMIT ?"""
        with _Transaction(self._db):
            rows = self._db.execute(query, (self._clock() - TOMBSTONE_S, limit)).fetchall()
            keys = [(tenant, name) for tenant, name, *_ in rows]
            self._db.executemany("DELETE FROM sessions WHERE tenant = ? AND name = ?", keys)
        return [Swept(Key(tenant, name), *rest) for tenant, name, *rest in rows]

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await self._in_thread(work)
        except sqlite3.Error as error:
            raise StoreUnavailableError(
                f"the session store could not be read or written ({error}); nothing of this"
                " request was kept: try again",
                retry_after_s=1,
            ) from error

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _read(data: bytes, expires_at: float) -> Record | None:
    """A record for a list: one that cannot be read must not hide the others."""
    try:
        return decode_record(data, expires_at)
    except RecordFormatError as error:
        log.warning("record left out of a list", reason=error.detail)
        return None


class _Transaction:
    """Takes the write lock at once; commits at the end, or rolls back on any error."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._db.execute("ROLLBACK" if kind else "COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
