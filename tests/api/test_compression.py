"""Bodies that come or go compressed, and what is said of codings."""

import gzip
import zlib

import orjson
import pytest

from service.api.compression import deflate, inflate
from service.errors import EncodingRefusedError

LONG = b"carry " * 100
ASKED = {"inputs": [{"name": "x", "shape": [1, 200, 2], "datatype": "FP32", "data": [0.5] * 400}]}
URL = "/v2/models/phase/infer"
ALL = {"parameters": {"emit": "all"}}


@pytest.mark.parametrize("name", ["gzip", "x-gzip", "X-GZIP", " gzip ", "identity, gzip"])
def test_gzip_is_read_by_each_of_its_names(name):
    assert inflate(gzip.compress(LONG), name, 10_000) == LONG


def test_deflate_is_read_and_a_body_as_it_is():
    assert inflate(zlib.compress(LONG), "deflate", 10_000) == LONG
    assert inflate(LONG, "identity", 10_000) == inflate(LONG, "", 10_000) == LONG


@pytest.mark.parametrize("name", ["br", "gzip, gzip", "deflate, gzip", "compress"])
def test_a_coding_that_is_not_read_names_those_that_are(name):
    with pytest.raises(EncodingRefusedError) as caught:
        inflate(LONG, name, 10_000)
    assert caught.value.accepted == "gzip, deflate"


@pytest.mark.parametrize(
    ("accepted", "name"),
    [
        ("", ""), ("gzip", "gzip"), ("x-gzip", "x-gzip"), ("deflate", "deflate"), ("br", ""),
        ("br, deflate", "deflate"), ("gzip;q=0", ""), ("gzip;q=0, deflate", "deflate"),
        ("gzip; q=0.0, *", ""), ("*, gzip;q=0", ""),
        ("*", "gzip"), ("*;q=0", ""), ("deflate;q=0.5, gzip;q=0.8", "gzip"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"), ("GZIP", "gzip"), ("identity", ""),
        ("gzip;q=", "gzip"),
    ],
)  # fmt: skip
def test_an_answer_goes_as_the_client_likes_it_best(accepted, name):
    data, encoding = deflate(LONG, accepted)
    assert encoding == name
    assert inflate(data, encoding, 10_000) == LONG


def test_a_short_answer_goes_as_it_is():
    assert deflate(b"short", "gzip") == (b"short", "")


@pytest.mark.parametrize("accepted", ["gzip", "deflate", "x-gzip", "identity", "gzip;q=0"])
async def test_every_answer_says_that_it_varies_with_what_is_accepted(client, accepted):
    headers = {"Accept-Encoding": accepted}
    for body in (ASKED | ALL, ASKED):
        answer = await client.post(URL, json=body, headers=headers)
        assert answer.status_code == 200
        assert "Accept-Encoding" in answer.headers["vary"]


@pytest.mark.parametrize("name", ["gzip", "x-gzip", "deflate"])
async def test_a_compressed_request_is_answered(client, name):
    squeeze = zlib.compress if name == "deflate" else gzip.compress
    body = squeeze(orjson.dumps(ASKED))
    answer = await client.post(URL, content=body, headers={"Content-Encoding": name})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("url", "accepted"), [(URL, "gzip, deflate"), ("/v1/sessions", "identity")]
)
async def test_a_coding_that_is_refused_is_415_with_what_is_accepted(client, url, accepted):
    headers = {"Content-Encoding": "br", "Content-Type": "application/json"}
    answer = await client.post(url, content=b"{}", headers=headers)
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, accepted)


async def test_a_media_type_that_is_refused_says_nothing_of_codings(client):
    headers = {"Content-Type": "text/plain"}
    answer = await client.post("/v1/sessions", content=b"{}", headers=headers)
    assert answer.status_code == 415
    assert "accept-encoding" not in answer.headers
