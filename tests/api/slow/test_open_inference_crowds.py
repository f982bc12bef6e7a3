"""Big bodies of `/v2` are counted before they are parsed."""

import json

import pytest

from service.api.body_reader import reader as body_reader
from service.api.body_reader.reader import BIG_BODY_BYTES
from service.api.v2.crowds import read_counted
from service.errors import TooLargeError
from service.settings import Settings
from tests.api.slow.test_big_bodies import start_bounded
from tests.api.support import listening

TENSOR = (
    b'{"id": "a", "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [%s]}]}'
)
KEYS = b",".join(b'"k%d":1' % index for index in range(1_000_000))
LISTS, OBJECTS = (b",".join([each] * 5_000_000) for each in (b"[]", b"{}"))
CROWDS = {
    "lists in data": ("infer", TENSOR % LISTS),
    "inputs": ("infer", b'{"inputs": [%s]}' % OBJECTS),
    "keys": ("infer", b'{"inputs": [], "parameters": {%s}}' % KEYS),
    "keys of generate": ("generate", b'{"text_input": "a", "parameters": {%s}}' % KEYS),
    "keys of a stream": ("generate_stream", b'{"text_input": "a", %s}' % KEYS),
    "lists of generate": ("generate", b'{"text_input": "a", "x": [%s]}' % LISTS),
}


@pytest.mark.parametrize("is_binary", [False, True], ids=["json", "json of binary"])
@pytest.mark.parametrize(("path", "data"), CROWDS.values(), ids=CROWDS)
async def test_a_crowd_is_refused_before_anything_is_made_of_it(path, data, is_binary, monkeypatch):
    """Of more than the process could hold, were it parsed, for its id or otherwise."""
    monkeypatch.setattr(body_reader, "_start", start_bounded("it.BYTES_PER_BYTE = 8"))
    calls, call = [], body_reader.BodyReader.call

    async def counted(self, *args):
        calls.append(args)
        return await call(self, *args)

    monkeypatch.setattr(body_reader.BodyReader, "call", counted)
    headers = {"content-type": "application/json"}
    if is_binary:
        headers["inference-header-content-length"] = str(len(data))
    async with listening() as client:
        answer = await client.post(f"/v2/models/verse/{path}", content=data, headers=headers)
    assert answer.status_code == 413, answer.text
    assert set(answer.json()) == {"error"}
    assert ": expected at most " in answer.json()["error"]
    assert len(calls) == 1


@pytest.mark.parametrize("path", ["index", "models/hello/load", "models/hello/unload"])
async def test_a_big_body_for_the_repository_is_refused_unparsed(path):
    async with listening() as client:
        answer = await client.post(
            f"/v2/repository/{path}",
            content=b"[" * (BIG_BODY_BYTES + 1),
            headers={"content-type": "application/json"},
        )
    assert answer.status_code == 413, answer.text
    assert set(answer.json()) == {"error"}


def num_bytes(data, json_bytes):
    return len(data[:json_bytes])


def test_whatever_is_a_flat_list_and_as_many_nested_rows_as_a_request_may_have_pass():
    limits = Settings()
    row = b"[" + b",".join([b"1.5"] * 40) + b"]"
    lists = b",".join([b"1"] * 8_000_000), b",".join([b'""'] * 5_000_000), b",".join([row] * 90_000)
    for data in (*lists, b'"' + b"{[:" * 5_000_000 + b'"'):
        body = TENSOR % data
        assert len(body) <= limits.max_body_bytes
        assert read_counted(num_bytes, limits, body, None) == len(body)


def test_what_stands_behind_the_json_is_not_counted():
    crowd = b"{[:" * 1_000_000
    assert read_counted(num_bytes, Settings(), b"{}" + crowd, 2) == 2
    with pytest.raises(TooLargeError, match="2000000 objects and lists"):
        read_counted(num_bytes, Settings(), crowd, None)


def test_members_are_counted_outside_of_texts():
    few = json.dumps({str(index): 'a:b\\":' for index in range(16_384)}).encode()
    assert read_counted(num_bytes, Settings(), few, None)
    with pytest.raises(TooLargeError, match="16385 members: expected at most 16384"):
        read_counted(num_bytes, Settings(), b"[" + few + b',{"a":1}]', None)


async def test_a_flat_list_of_numbers_of_millions_is_read():
    tensor = b'{"name": "x", "datatype": "FP32", "shape": [1, 2000000, 2], "data": [%s]}'
    body = b'{"inputs": [' + tensor + b"]}"
    async with listening() as client:
        answer = await client.post(
            "/v2/models/load/infer",
            content=body % b",".join([b"1"] * 4_000_000),
            headers={"content-type": "application/json"},
        )
    assert answer.status_code == 413, answer.text  # of its steps, which were read
    assert "1 rows of 2000000 steps in all" in answer.json()["error"]
