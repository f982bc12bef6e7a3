"""What the head of a request must hold beyond its syntax, and which upgrade it asks for.

The parser (llhttp) checks the syntax of a head, and where its message ends. It does not check what
is here: RFC 9112 §3.2 (Host), §2.3 and §6.1 (versions, transfer codings), RFC 9110 §5.3 (fields
that may not be repeated) and §7.8 (upgrades).
"""

import re
from collections.abc import Iterable

from service.errors import MalformedError

HeaderLines = list[tuple[bytes, bytes]]
"""Names in lower case, values without the white space around them, in the order they came."""

_VERSIONS = frozenset({"1.0", "1.1"})
_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
_SINGLE = frozenset(
    {b"content-type", b"idempotency-key", b"inference-header-content-length", b"last-event-id"}
)
"""Of these the service reads one value. Two equal lines say the same; of two different ones a proxy
before it could take the other. Two keys are refused as no key (`auth.find_caller`)."""


def is_host(value: bytes | None) -> bool:
    return value is not None and _HOST.fullmatch(value) is not None


def fault_of(version: str, headers: HeaderLines) -> MalformedError | None:
    """Why a request with this head is refused; None if it is not."""
    if version not in _VERSIONS:
        return MalformedError(f"the request line says HTTP/{version}: expected HTTP/1.1")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        return MalformedError(f"the request has {len(hosts)} Host headers: expected one")
    if hosts and not is_host(hosts[0]):
        return MalformedError(
            "the Host header is not a host name with an optional port: correct it"
        )
    seen: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _SINGLE and seen.setdefault(name, value) != value:
            found = name.decode().title()
            return MalformedError(f"two different {found} headers: expected one")
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings and (version == "1.0" or codings[0].lower() != b"chunked"):
        said = codings[0][:100].decode("latin-1")
        return MalformedError(
            f"Transfer-Encoding is {said} in HTTP/{version}: expected chunked in HTTP/1.1, or a"
            " Content-Length"
        )
    return None


def asks_for_websocket(method: bytes, version: str, headers: HeaderLines) -> bool:
    """Whether an upgrade is a WebSocket handshake, good or bad; any other is ignored."""
    return method == b"GET" and version == "1.1" and b"websocket" in tokens(headers, b"upgrade")


def announces_body(headers: HeaderLines) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
        for name, value in headers
    )


def without_upgrade(headers: HeaderLines) -> HeaderLines:
    """The same head asking for no upgrade; the length of the body and the rest stay."""
    kept = [(name, value) for name, value in headers if name not in (b"upgrade", b"connection")]
    connection = [token for token in tokens(headers, b"connection") if token != b"upgrade"]
    if connection:
        kept.append((b"connection", b", ".join(connection)))
    return kept


def head_bytes(method: bytes, url: bytes, version: str, headers: HeaderLines) -> bytes:
    parts = [method, b" ", url, b" HTTP/", version.encode(), b"\r\n"]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    return b"".join((*parts, b"\r\n"))


def tokens(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The elements of a list header, in lower case, of all of its lines."""
    values = (value for key, value in headers if key == name)
    found = (token.strip(b" \t").lower() for value in values for token in value.split(b","))
    return [token for token in found if token]
