"""Who may ask: the keys of `CARRY_API_KEYS_FILE`, kept by their SHA-256.

Rule 1: a key is 256 random bits, made by `new_key`. Nothing shortens the search for such a key, so
        one fast hash is enough; slow ones (argon2, scrypt) protect what people choose themselves.
Rule 2: what is looked up and compared is a digest of fixed length. Whoever asks does not choose the
        digest of a key, so the time that it takes tells nothing about the keys of others; and a
        missing, an unknown, a revoked and an expired key get one and the same answer.
Rule 3: the file is read again when it changes (`key_watch.py` looks), so that a key is revoked
        without a restart. One that is missing, empty or broken leaves the keys as they were, and
        is told; at start it stops the service.
Rule 4: only a plain file of some megabytes is read, and nothing is waited for: not even a pipe.
"""

import hashlib
import hmac
import json
import os
import secrets
import stat
import time
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import structlog
from limits import RateLimitItem, parse_many
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.errors import StartUpError

log = structlog.get_logger()

KEY_PREFIX = "carry_"
_MAX_FILE_BYTES = 4 * 2**20
_NO_DIGEST = bytes(32)


class Quota(NamedTuple):
    """What a tenant may have open; None: any number."""

    max_sessions: int | None
    max_bytes: int | None


class Caller(NamedTuple):
    """Who asks, as far as the service needs to know."""

    tenant: str
    is_admin: bool
    key_id: str
    limits: tuple[RateLimitItem, ...] = ()
    quota: Quota | None = None


ANYBODY = Caller("default", is_admin=True, key_id="")
"""Everybody, where no keys are configured."""


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _read_limits(text: str) -> str:
    try:
        parse_many(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a rate limit: expected for example '100/second' or"
            " '100/second; 1000000/day'"
        ) from None
    return text


class KeyEntry(BaseModel):
    """One key of the file, under its id, which is not secret and appears in logs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tenant: str = Field(pattern=r"^[A-Za-z0-9._~-]{1,64}$")
    role: Literal["user", "admin"] = "user"
    expires: Annotated[datetime, AfterValidator(_in_utc)] | None = None
    revoked: bool = False
    limits: Annotated[str, AfterValidator(_read_limits)] | None = None
    max_sessions: int | None = Field(default=None, ge=0)
    max_bytes: int | None = Field(default=None, ge=0)

    @property
    def quota(self) -> Quota | None:
        """Of the tenant, as this key is held to it."""
        quota = Quota(self.max_sessions, self.max_bytes)
        return None if quota == (None, None) else quota


_KeyId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
_FILE = TypeAdapter(dict[_KeyId, KeyEntry])


class KeysFileError(StartUpError):
    """The file of keys cannot be used.

    `fault` is one of a few fixed texts without a path or content, which `/readyz` may show.
    """

    def __init__(self, path: Path, fault: str, found: str) -> None:
        super().__init__(f"CARRY_API_KEYS_FILE: {path}: {found}")
        self.fault = fault


def read_keys_file(path: Path) -> dict[str, KeyEntry]:
    """The keys by their ids, from TOML, or from JSON where the name ends in `.json`.

    Raises:
        KeysFileError: it is missing, empty, not valid TOML or JSON, or holds an invalid key.
    """
    data = _read_plain(path)
    is_json = path.suffix == ".json"
    try:
        found: Any = json.loads(data) if is_json else tomllib.loads(data.decode())
        keys = _FILE.validate_python(found)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        raise KeysFileError(path, "holds an invalid entry", f"{where}: {problem['msg']}") from None
    except (ValueError, RecursionError) as error:  # UTF-8 that is not valid among them
        fault = f"is not valid {'JSON' if is_json else 'TOML'}"
        raise KeysFileError(path, fault, str(error)) from None
    if not keys:
        raise KeysFileError(
            path,
            "holds no key",
            "expected at least one key, found none; python -m service new-key writes a line, and"
            " `revoked = true` in it revokes a key",
        )
    ids_of: dict[str, str] = {}
    for key_id, entry in keys.items():
        other = ids_of.setdefault(entry.sha256, key_id)
        if other != key_id:
            raise KeysFileError(
                path, "holds one key twice", f"{other} and {key_id} are the same key: remove one"
            )
    return keys


def _read_plain(path: Path) -> bytes:
    """The bytes of a plain file; anything else is neither read nor waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise KeysFileError(
                    path,
                    "is not a plain file",
                    "expected a plain file, found a folder, a pipe or a device; name the file of"
                    " keys itself",
                )
            if status.st_size > _MAX_FILE_BYTES:
                raise KeysFileError(
                    path,
                    "is too large",
                    f"expected at most {_MAX_FILE_BYTES} bytes, found {status.st_size}; remove the"
                    " lines of expired keys",
                )
            return file.read(_MAX_FILE_BYTES)
    except OSError as error:
        faults = {FileNotFoundError: "is missing", IsADirectoryError: "is not a plain file"}
        raise KeysFileError(
            path,
            faults.get(type(error), "cannot be read"),
            f"cannot be read ({error.strerror}); python -m service new-key writes its first line",
        ) from None


def new_key(tenant: str, *, is_admin: bool) -> tuple[str, str, KeyEntry]:
    """A key to hand out, its id, and what the file says of it."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    entry = KeyEntry(
        sha256=_digest(key.encode()).hex(), tenant=tenant, role="admin" if is_admin else "user"
    )
    return key, f"k{entry.sha256[:8]}", entry


class _Known(NamedTuple):
    digest: bytes
    caller: Caller
    expires_s: float


_NOBODY = _Known(_NO_DIGEST, Caller("", is_admin=False, key_id=""), expires_s=0.0)


class KeyRing:
    """The keys of one process. Without a file, everybody is an admin of the tenant `default`.

    Raises:
        KeysFileError: the file cannot be read or holds an invalid key.
    """

    def __init__(self, path: Path | None, wall_clock: Callable[[], float] = time.time) -> None:
        self.fault = ""
        """What is wrong with the file since the last look, as in `KeysFileError`, or empty."""
        self._problem = ""
        self._path = path
        self._wall_clock = wall_clock
        self._known: dict[bytes, _Known] = {}
        self._seen: object = None
        if path is not None:
            self._seen = _signature(path)
            self._known = _known_in(path)

    @property
    def is_open(self) -> bool:
        """No keys are configured."""
        return self._path is None

    def find(self, authorization: bytes | None) -> Caller | None:
        """Whose key the value of an `Authorization` header holds; None: nobody's."""
        if self._path is None:
            return ANYBODY
        scheme, _, token = (authorization or b"").partition(b" ")
        digest = _digest(token.strip(b" "))
        known = self._known.get(digest, _NOBODY)
        is_right = hmac.compare_digest(digest, known.digest)
        is_right &= scheme.lower() == b"bearer"
        is_right &= self._wall_clock() < known.expires_s
        return known.caller if is_right else None

    def look(self) -> None:
        """Read the file again if it has changed. May be called from another thread, by one."""
        path = self._path
        if path is None:
            return
        now = _signature(path)
        if now == self._seen and now is not None:
            return
        try:
            known = _known_in(path)
        except KeysFileError as error:
            self.fault = error.fault
            if str(error) != self._problem:
                self._problem = str(error)
                log.error("keys file not read, the keys stay as they were", problem=self._problem)  # noqa: TRY400 -- the message says all
        else:
            self._known, self.fault, self._problem = known, "", ""
            log.info("keys file read again", num_keys=len(known))
        self._seen = now


def _known_in(path: Path) -> dict[bytes, _Known]:
    """The keys of a file that may be used, by their digests."""
    return {
        bytes.fromhex(entry.sha256): _Known(
            bytes.fromhex(entry.sha256),
            Caller(
                entry.tenant,
                entry.role == "admin",
                key_id,
                tuple(parse_many(entry.limits)) if entry.limits else (),
                entry.quota,
            ),
            entry.expires.timestamp() if entry.expires else float("inf"),
        )
        for key_id, entry in read_keys_file(path).items()
        if not entry.revoked
    }


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _signature(path: Path) -> object:
    """What changes when the file does; None while it is away."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev
