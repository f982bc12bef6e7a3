"""Bodies of steps that no client of ours would send: answered, never by a 5xx, never by a hang."""

import json

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.api.sessions.bulk import ARROW
from tests.api.support import listening_apart
from tests.api.test_bulk import GOOD, OPEN, ROW, stream_of

JSON = "application/json"
STEPS, BULK = "/v1/sessions/a/steps", "/v1/steps"
STEP = json.dumps({"observations": [ROW], "emit": "all"}).encode()
MANY = json.dumps({"steps": [{"session": "a", "observations": [ROW]}] * 2}).encode()
ODD = [
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"1" * 5000,
    b"null",
    b"\xff",
    b'"\\ud800"',
]
TYPES = [pa.int8(), pa.uint64(), pa.float64(), pa.bool_(), pa.string(), pa.binary()]
TYPES += [pa.null(), pa.date32(), pa.timestamp("ns"), pa.decimal128(9, 2), pa.list_(pa.float32())]
BOUNDED = settings(
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def client():
    with listening_apart() as client:
        client.post("/v1/sessions", json=OPEN | {"session": "a"}).raise_for_status()
        yield client
        assert client.get("/v1/sessions/a").status_code == 200


def status_of(client, path, kind, body):
    """Of one request, which is answered in 20 s (the client's limit) and is nobody's defect."""
    answer = client.post(path, content=body, headers={"Content-Type": kind})
    assert answer.status_code < 500, answer.text
    return answer.status_code


def altered(good):
    """Bytes of which some are cut off, overwritten or put in."""
    places = st.integers(0, len(good))
    edit = st.tuples(places, st.integers(0, 16), st.binary(max_size=16) | st.sampled_from(ODD))

    def apply(edits, cut):
        data = good
        for place, gone, more in edits:
            data = data[:place] + more + data[place + gone :]
        return data[: len(data) - cut]

    return st.builds(apply, st.lists(edit, min_size=1, max_size=4), st.sampled_from([0, 0, 1, 9]))


@pytest.mark.parametrize(("path", "good"), [(STEPS, STEP), (BULK, MANY)])
def test_altered_json_is_no_5xx(client, path, good):
    @BOUNDED
    @given(altered(good))
    def holds(body):
        status_of(client, path, JSON, body)

    holds()


def test_altered_arrow_is_no_5xx(client):
    @BOUNDED
    @given(altered(GOOD))
    def holds(body):
        status_of(client, BULK, ARROW, body)

    holds()


def test_lying_lengths_in_arrow_are_no_5xx(client):
    """Every aligned word of the stream replaced: lengths, offsets and counts of the metadata."""
    for place in range(0, len(GOOD), 4):
        for word in (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff"):
            status_of(client, BULK, ARROW, GOOD[:place] + word + GOOD[place + 4 :])


def test_json_cut_anywhere_is_malformed(client):
    for path, good in ((STEPS, STEP), (BULK, MANY)):
        for place in range(0, len(good), 3):
            assert status_of(client, path, JSON, good[:place]) in (400, 422)  # 422: no body at all


@pytest.mark.parametrize("path", [STEPS, BULK])
@pytest.mark.parametrize("opening", [b"[", b'{"steps":[', b'{"observations":', b'{"steps":'])
def test_json_of_ten_thousand_levels_is_refused(client, path, opening):
    closing = opening.translate(bytes.maketrans(b"[{", b"]}"), b'":abeinoprstv')[::-1]
    for body in (opening * 10_000 + b"1" + closing * 10_000, opening * 10_000):
        assert status_of(client, path, JSON, body) in (400, 413, 422)


@pytest.mark.parametrize("value", ODD)
def test_what_is_no_finite_number_is_refused_or_missing(client, value):
    row = b'{"observations": [[%s, 1]]}' % value
    many = b'{"steps": [{"session": "a", "observations": [[%s, 1]]}]}' % value
    expected = (200,) if value in (b"null", b"-0") else (400, 422)
    assert status_of(client, STEPS, JSON, row) in expected
    assert status_of(client, BULK, JSON, many) in (200, 400, 422)


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("column", ["session", "step", "load", "observations"])
def test_columns_of_any_type_are_no_5xx(client, column, kind):
    columns = {"session": ["a"], "step": [0]}
    columns |= {"observations": [ROW]} if column == "observations" else {"load": [1.0]}
    for values in (pa.nulls(1, kind), filled(kind)):
        table = pa.table(columns | {column: values})
        assert status_of(client, BULK, ARROW, stream_of(table)) in (200, 400, 422)


FILLED = {
    "null": None,
    "binary": b"\0",
    "string": "\0",
    "list<item: float>": [float("nan"), float("inf"), 1.0],
    "bool": True,
}


def filled(kind):
    """One value of this type that is no null, where it has one."""
    return pa.array([FILLED.get(str(kind), 1)], kind)


@pytest.mark.parametrize(("path", "kind"), [(STEPS, JSON), (BULK, JSON), (BULK, ARROW)])
def test_a_body_beyond_the_limit_is_413(client, path, kind):
    assert status_of(client, path, kind, b" " * ((16 << 20) + 1)) == 413
