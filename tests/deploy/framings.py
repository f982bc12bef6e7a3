"""Random framings of requests on one connection, and a client that counts what is answered.

A framing is some well-formed requests and one ending, in one or many pieces. Where each request
ends is known from how it was made. An answer that no request asked for is found by its order, its
request id, its status and whose session it names. In the end the sessions have made as many steps
as were sent.
"""

import asyncio
import json
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

DEADLINE_S = 120.0
NUM_AT_ONCE = 8
ROW = {"observations": [[1, 2]]}
OK, REFUSED = range(200, 201), range(400, 500)


@dataclass(frozen=True)
class Tenant:
    session: str
    authorization: bytes = b""  # a whole header line

    def smuggled(self) -> bytes:
        """A whole step, for where a body is expected."""
        body = json.dumps(ROW).encode()
        return (
            b"POST /v1/sessions/%s/steps HTTP/1.1\r\nHost: x\r\n%s"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        ) % (self.session.encode(), self.authorization, len(body), body)


@dataclass(frozen=True)
class Asked:
    data: bytes
    statuses: range
    request_id: str = ""  # empty: the answer's id does not matter
    is_step: bool = False


@dataclass
class Framing:
    seed: int
    tenant: Tenant
    asked: list[Asked] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    num_sure: int = 0  # so many are answered; those behind may be, as somebody closed before
    is_half_closed: bool = False
    pause_s: float = 0.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


UPGRADES = [
    b"",
    b"",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    b"Connection: upgrade\r\nConnection: keep-alive\r\nUpgrade: h2c\r\n",
    b"Connection: keep-alive, Upgrade\r\nUpgrade: TLS/1.0, HTTP/2.0\r\n",
    b"UPGRADE: WebSocket\r\nconnection: UPGRADE\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n",
    b"Upgrade: h2c\r\n",
    b"Connection: Upgrade\r\n",
]
MALFORMED = [
    b"GARBAGE\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n",
    b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n",
    b"POST /v1/models/load/predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/models/load/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\na",
    b"POST /v1/models/load/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
    b"Content-Length: 2\r\n\r\nab",
    b"POST /v1/models/load/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    b"POST /v1/models/load/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"zz\r\na\r\n0\r\n\r\n",
    b"POST /v1/models/load/predict HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1\r\na\r\n0\r\n\r\n",
]
TRAILERS = [
    b"X-Trailer: v\r\n",
    b"Host: y\r\nContent-Type: text/plain\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
]
HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)
LENGTH, CHUNKED = b"Host: x\r\nContent-Length: 1", b"Host: x\r\nTransfer-Encoding: chunked"
BODIES = {LENGTH: b"x", CHUNKED: b"1\r\nx\r\n0\r\n\r\n"}
BAD_HANDSHAKES = [
    (b"Version: 13", b"Version: 12"),
    (b"Key: MDEyMzQ1Njc4OWFiY2RlZg==", b"Key: short"),
    (b"Sec-WebSocket-Version: 13\r\n", b""),
    (b"Upgrade: websocket", b"Upgrade: websocket, h2c"),
    (b"Host: x", LENGTH),
    (b"Host: x", CHUNKED),
    (b"GET", b"PUT"),
    (b"/v1/stream", b"/v1/sessions/nobody/stream"),
]


def framing(seed: int, tenants: list[Tenant], *, is_direct: bool) -> Framing:
    """`is_direct`: nothing is between, which might take the client's end for its leaving."""
    chance = random.Random(seed)
    tenant, other = chance.sample(tenants, 2)
    made = Framing(seed, tenant)
    for place in range(chance.randint(1, 4)):
        made.asked.append(_asked(chance, tenant, other, f"f{seed}-{place}"))
    made.num_sure = len(made.asked)
    ending = chance.choice(["close", "close", "malformed", "handshake", "end"])
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-ID: f%d-last\r\n" % seed
    if ending == "malformed":
        malformed = [each for each in MALFORMED if is_direct or b"HTTP/2.0" not in each]
        made.asked.append(Asked(chance.choice(malformed), REFUSED))  # the front says 505
        made.num_sure += 1
    elif ending == "handshake":
        before, after = chance.choice(BAD_HANDSHAKES)
        head = HANDSHAKE.replace(before, after) + tenant.authorization
        made.asked.append(Asked(head + b"\r\n" + BODIES.get(after, b""), REFUSED))
        made.num_sure += 1
    made.is_half_closed = is_direct and ending == "end"
    closing = b"\r\n" if made.is_half_closed else b"Connection: close\r\n\r\n"
    made.asked.append(Asked(last + closing, OK, f"f{seed}-last"))
    if ending in ("close", "end"):
        made.num_sure += 1
    made.pieces = list(_pieces(chance, [each.data for each in made.asked]))
    made.pause_s = chance.choice([0, 0, 0.001, 0.005]) if len(made.pieces) < 20 else 0
    return made


def _asked(chance: random.Random, tenant: Tenant, other: Tenant, request_id: str) -> Asked:
    path = b"/v1/sessions/" + tenant.session.encode()
    kind = chance.choice(["step", "step", "step", "session", "smuggle", "keyless", "big"])
    statuses, body = OK, json.dumps(ROW).encode()
    if kind == "big":
        kind = chance.choice(["step"] * 20 + ["big"])
    line, is_step = b"POST " + path + b"/steps", kind in ("step", "big")
    authorization = tenant.authorization
    if kind == "big":
        body += b" " * 300_000
    elif kind == "session":
        line, body = b"GET " + path, chance.choice([b"", b"", b"hello", other.smuggled()])
    elif kind == "smuggle":
        statuses, body = REFUSED, chance.choice([other, tenant]).smuggled() * chance.randint(1, 3)
    elif kind == "keyless" and tenant.authorization:
        statuses, authorization = REFUSED, b""
    elif kind == "keyless":
        is_step = True
    head = [b"Host: x\r\n", b"X-Request-ID: %s\r\n" % request_id.encode(), authorization]
    head.append(chance.choice([b"", b"", b"X-Empty:\r\n", b"Accept: a\r\nAccept: b\r\n"]))
    head.append(chance.choice(UPGRADES))
    if line.startswith(b"POST"):
        head.append(b"Content-Type: application/json\r\n")
        head.append(chance.choice([b""] * 6 + [b"Expect: 100-continue\r\n"]))
    if line.startswith(b"GET"):  # and the upgrade of a GET is a handshake
        head[-1] = b"" if b"ebsocket" in head[-1].lower() else head[-1]
    if body or line.startswith(b"POST"):
        framed, body = _framed(chance, body, other)
        head.append(framed)
    chance.shuffle(head)
    data = line + b" HTTP/1.1\r\n" + b"".join(head) + b"\r\n" + body
    return Asked(data, statuses, request_id, is_step)


# Not of what another may see as a request of its own: a parser that reads `Content-Length` or
# `Transfer-Encoding` in a trailer refuses it, and one that reads `Connection: close` closes.
def _framed(chance: random.Random, body: bytes, other: Tenant) -> tuple[bytes, bytes]:
    """The header that frames a body, in one of the ways there are, and the framed body."""
    if chance.random() < 0.5:
        return b"Content-Length: %s%d\r\n" % (b"0" * chance.choice([0, 0, 3]), len(body)), body
    parts, start = [], 0
    while start < len(body):
        part = body[start : start + chance.randint(1, max(1, len(body) // 3))]
        size = b"%x" % len(part)
        size = chance.choice([size, size.upper(), b"00" + size])
        extension = chance.choice([b"", b"", b";a=b", b';a="b"'])
        parts.append(size + extension + b"\r\n" + part + b"\r\n")
        start += len(part)
    trailers = [b"", b"", *TRAILERS, other.authorization]
    parts.append(b"0\r\n" + chance.choice(trailers) + b"\r\n")
    return b"Transfer-Encoding: %s\r\n" % chance.choice([b"chunked", b"Chunked"]), b"".join(parts)


def _pieces(chance: random.Random, parts: list[bytes]) -> Iterator[bytes]:
    data = b"".join(parts)
    how = chance.choice(["whole", "parts", "heads", "random", "random", "bytes"])
    if how == "parts":
        yield from parts
        return
    cuts = []
    if how == "heads":
        cuts = [at + 4 for at in range(len(data)) if data.startswith(b"\r\n\r\n", at)]
    elif how == "random":
        cuts = sorted(chance.sample(range(len(data)), min(len(data), chance.randint(1, 6))))
    elif how == "bytes" and len(data) < 2000:
        cuts = list(range(len(data)))
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if start < end:
            yield data[start:end]


async def answers_to(made: Framing, port: int) -> list[Answer]:
    """Send it; all that is answered until the server closes."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(client, ("127.0.0.1", port))

        async def send() -> None:
            try:
                for piece in made.pieces:
                    await loop.sock_sendall(client, piece)
                    await asyncio.sleep(made.pause_s)
                if made.is_half_closed:
                    client.shutdown(socket.SHUT_WR)
            except OSError:  # closed behind a refusal
                pass

        sending = asyncio.create_task(send())
        parts = []
        try:
            async with asyncio.timeout(DEADLINE_S):
                while part := await loop.sock_recv(client, 65536):
                    parts.append(part)
        except ConnectionResetError:
            pass
        finally:
            sending.cancel()
            await asyncio.wait({sending})
    return list(parsed(b"".join(parts)))


def parsed(data: bytes) -> Iterator[Answer]:
    while data:
        head, separator, data = data.partition(b"\r\n\r\n")
        assert separator, head
        first, *lines = head.decode("latin-1").split("\r\n")
        assert first.startswith("HTTP/1.1 "), first
        status = int(first.split()[1])
        headers = dict(line.lower().split(": ", 1) for line in lines)
        if status == 100:
            continue
        if "content-length" in headers:
            size = int(headers["content-length"])
            assert len(data) >= size, "cut in the middle of an answer"
            body, data = data[:size], data[size:]
        else:
            assert headers.get("transfer-encoding") == "chunked", head
            body = b""
            while True:
                line, _, data = data.partition(b"\r\n")
                size = int(line, 16)
                part, data = data[:size], data[size + 2 :]
                body += part
                if size == 0:
                    break
        yield Answer(status, headers, body)


def check(made: Framing, answers: list[Answer]) -> None:
    """Every request is answered once, in its order, and nothing else is."""
    found = [(each.status, each.headers.get("x-request-id")) for each in answers]
    context = f"seed {made.seed}: {found} to {b'|'.join(made.pieces)!r}"
    assert made.num_sure <= len(answers) <= len(made.asked), context
    for asked, answer in zip(made.asked, answers, strict=False):
        assert answer.status in asked.statuses, context
        assert not asked.request_id or answer.headers["x-request-id"] == asked.request_id, context
        if asked.request_id and answer.status == 200 and b'"session"' in answer.body:
            assert json.loads(answer.body)["session"] == made.tenant.session, context


async def try_framings(
    seeds: range,
    port: int,
    tenants: list[Tenant],
    *,
    is_direct: bool,
    report: Callable[[int], None] = lambda _: None,
) -> dict[str, int]:
    """Send a framing for each seed, many at once; how many steps each session must have made."""
    num_steps = dict.fromkeys((tenant.session for tenant in tenants), 0)
    upcoming = iter(seeds)

    async def send_some() -> None:
        for seed in upcoming:
            made = framing(seed, tenants, is_direct=is_direct)
            check(made, await answers_to(made, port))
            num_steps[made.tenant.session] += sum(
                each.is_step and each.statuses is OK for each in made.asked
            )
            report(len(made.asked))

    async with asyncio.TaskGroup() as group:
        for _ in range(NUM_AT_ONCE):
            group.create_task(send_some())
    return num_steps
