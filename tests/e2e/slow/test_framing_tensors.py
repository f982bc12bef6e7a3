"""Binary tensors of `/v2` whose framing lies, against the real service.

Whatever comes, it is answered in time, never by a 5xx; the next good request is served;
and after hundreds of them the process is no larger and holds no more descriptors.
"""

import gzip
import json
import random
import socket
import zlib

import numpy as np
import pytest

from tests.e2e.framing import DEADLINE_S, altered, told_until_end, watched_service

NUM_ROUNDS = 120


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with watched_service(tmp_path_factory.mktemp("framing")) as service:
        yield service


X = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
INFER = "/v2/models/load/infer"
HEADER = "Inference-Header-Content-Length"


def infer_body(**changes):
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3, 2]}
    tensor |= {"parameters": {"binary_data_size": X.nbytes}} | changes
    return json.dumps(
        {"inputs": [tensor], "parameters": {"sequence_id": 7, "sequence_start": True}}
    )


def infer(service, body, header, path=INFER, **headers):
    given = {"Content-Type": "application/octet-stream"} | headers
    if header is not None:
        given[HEADER] = str(header)
    answer = service.client.post(path, content=body, headers=given)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert isinstance(answer.json()["error"], str)
    service.serves()
    return answer.status_code


def test_a_binary_tensor_as_it_should_be_is_answered(service):
    text = infer_body().encode()
    assert infer(service, text + X.tobytes(), len(text)) == 200


@pytest.mark.parametrize("header", [-1, 0, 1, "x", "9" * 30, "٣", "1e3", "0x10", " 5", 10**11 - 1])
def test_a_header_that_lies_is_refused(service, header):
    text = infer_body().encode()
    raw = str(header).encode()
    with socket.create_connection(("127.0.0.1", service.server.port), timeout=DEADLINE_S) as wire:
        body = text + X.tobytes()
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        head += f"Content-Length: {len(body)}\r\n{HEADER}: "
        wire.sendall(head.encode() + raw + b"\r\n\r\n" + body)
        assert told_until_end(wire).startswith(b"HTTP/1.1 400 ")
    service.serves()


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {"binary_data_size": size}}
        for size in (-1, 0, 23, 25, 2**31, 2**63, 2**64, 1.0, True, "24", None, [24])
    ]
    + [
        {"shape": shape}
        for shape in ([1, 3], [-1, -3, 2], [2**40, 2**40, 2], [0, 3, 2], "x", [[1]])
    ]
    + [{"datatype": kind} for kind in ("FP64", "INT32", "BYTES", "BF16", "", None, 7)]
    + [{"name": name} for name in ("y", "", None, "x" * 10_000)],
    ids=str,
)  # fmt: skip
def test_a_tensor_that_lies_is_refused(service, changes):
    text = infer_body(**changes).encode()
    assert infer(service, text + X.tobytes(), len(text)) == 400


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bodies_are_bounded_and_must_be_whole(service, encoding):
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    text = infer_body().encode()
    packed = pack(text + X.tobytes())
    told = {"Content-Encoding": encoding}
    assert infer(service, packed, len(text), **told) == 200
    before = service.rss_bytes()
    for place in range(0, len(packed), 7):
        assert infer(service, packed[:place], len(text), **told) == 400
    assert infer(service, pack(bytes(100 << 20), 1), 5, **told) == 413
    assert infer(service, packed + packed, len(text), **told) == 400
    assert service.rss_bytes() - before < 64 << 20


def test_a_body_that_breaks_off_is_refused_in_time(service):
    text = infer_body().encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\n{HEADER}: {len(text)}\r\n"
    for body in (b"", text, text + X.tobytes()[:7]):
        with socket.create_connection(
            ("127.0.0.1", service.server.port), timeout=DEADLINE_S
        ) as wire:
            wire.sendall(f"{head}Content-Length: 5000\r\n\r\n".encode() + body)
            wire.shutdown(socket.SHUT_WR)
            assert not told_until_end(wire).startswith(b"HTTP/1.1 5")
    service.serves()


def try_altered_infer(service, seed):
    chance = random.Random(seed)
    text = infer_body().encode()
    body = altered(text + X.tobytes(), chance)
    path = chance.choice((INFER, "/v2/models/mood/infer", "/v2/models/load/versions/1/infer"))
    infer(service, body, chance.choice((None, len(text), chance.randint(0, 300))), path)


def test_altered_tensors_are_no_5xx(service):
    for seed in range(NUM_ROUNDS):
        try_altered_infer(service, seed)


def test_altered_tensors_leave_no_memory_and_no_descriptors_behind(service):
    def rounds(first, last):
        for seed in range(first, last):
            try_altered_infer(service, seed)

    service.takes_no_more_after(rounds, 1000, 1000 + 2 * NUM_ROUNDS)
