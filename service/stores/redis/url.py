"""Parses the URL of a Redis or Valkey store (CARRY_STORE).

    redis://[user:password@]host[:port][/db]
    redis+sentinel://[user:password@]host[:port],host[:port],…/service[/db]
    redis+cluster://[user:password@]host[:port],host[:port],…

`rediss` instead of `redis` uses TLS. User and password are percent-encoded. A file may hold the
password instead, so that it is not in the environment.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from service.errors import StartUpError

Endpoint = tuple[str, int]
"""A host and a port."""

EXPECTED: Final = (
    "redis://[user:password@]HOST[:PORT][/DB], redis+sentinel://HOST[:PORT],…/SERVICE[/DB] or"
    " redis+cluster://HOST[:PORT],… (rediss for TLS)"
)
_PORTS: Final = {"single": 6379, "sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """A parsed URL. `endpoints` are the servers, or the sentinels of `service`."""

    topology: str
    endpoints: tuple[Endpoint, ...]
    service: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    uses_tls: bool = False
    ca_file: Path | None = None


def read_redis_url(
    url: str, password_file: Path | None = None, ca_file: Path | None = None
) -> RedisAddress:
    """Parse a URL.

    Raises:
        StartUpError: it is invalid, or a file cannot be read. The message never shows the password.
    """
    parts = urlsplit(url)
    scheme, _, topology = parts.scheme.partition("+")
    topology = topology or "single"
    if topology not in _PORTS:
        raise _invalid(parts, f"{topology!r} is not a known topology")
    if "@" in parts.path + parts.query + parts.fragment:
        raise StartUpError(
            "CARRY_STORE (its password is not shown): user or password contains '/', '?' or"
            " '#': expected %2F, %3F or %23, or a CARRY_STORE_PASSWORD_FILE"
        )
    user_and_password, _, hosts = parts.netloc.rpartition("@")
    username, _, password = user_and_password.partition(":")
    endpoints = tuple(_place(parts, host, _PORTS[topology]) for host in hosts.split(","))
    if topology == "single" and len(endpoints) > 1:
        raise _invalid(parts, "several servers need a topology: redis+sentinel or redis+cluster")
    service, db = _service_and_db(parts, topology)
    uses_tls = scheme == "rediss"
    if ca_file is not None and not uses_tls:
        raise StartUpError(
            f"CARRY_STORE_CA_FILE is {str(ca_file)!r}, but CARRY_STORE begins with {scheme}:"
            " expected rediss, which uses TLS"
        )
    if ca_file is not None and not ca_file.is_file():
        raise StartUpError(
            f"CARRY_STORE_CA_FILE is {str(ca_file)!r}: expected a file of certificates"
        )
    return RedisAddress(
        topology=topology,
        endpoints=endpoints,
        service=service,
        db=db,
        username=unquote(username) or None,
        password=_password_in(password_file) if password_file else unquote(password) or None,
        uses_tls=uses_tls,
        ca_file=ca_file,
    )


def _place(parts: SplitResult, host: str, port: int) -> Endpoint:
    try:
        found = urlsplit(f"//{host}")
        if found.hostname and found.netloc == host:
            return found.hostname, found.port or port
    except ValueError:
        pass
    raise _invalid(parts, f"{host!r} is not a host with a port")


def _service_and_db(parts: SplitResult, topology: str) -> tuple[str, int]:
    names = [unquote(name) for name in parts.path.split("/") if name]
    service = names.pop(0) if topology == "sentinel" and names else ""
    if parts.query or parts.fragment:
        raise _invalid(parts, "it must end after its path")
    if topology == "sentinel" and not service:
        raise _invalid(parts, "the name of the service that the sentinels watch is missing")
    if len(names) > (topology != "cluster") or not all(n.isascii() and n.isdigit() for n in names):
        raise _invalid(parts, f"its path is {parts.path!r}")
    return service, int(names[0]) if names else 0


def _password_in(file: Path) -> str:
    try:
        password = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartUpError(
            f"CARRY_STORE_PASSWORD_FILE is {str(file)!r} and cannot be read ({error}): expected a"
            " file that holds the password of the store"
        ) from None
    if not password:
        raise StartUpError(f"CARRY_STORE_PASSWORD_FILE is {str(file)!r}: the file is empty")
    return password


def _invalid(parts: SplitResult, reason: str) -> StartUpError:
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    return StartUpError(
        f"CARRY_STORE is {shown!r} (its password is not shown): {reason}; expected {EXPECTED}"
    )
