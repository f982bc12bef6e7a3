"""Arrow streams that lie, refer to themselves or unfold, against the real service.

Whatever comes, it is answered in time, never by a 5xx; the next good request is served;
and after hundreds of them the process is no larger and holds no more descriptors.
"""

import random
import struct

import numpy as np
import pyarrow as pa
import pytest

from service.api.sessions.bulk import ARROW
from tests.e2e.framing import altered, watched_service

NUM_ROUNDS = 120


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with watched_service(tmp_path_factory.mktemp("framing")) as service:
        yield service


def arrow_of(table, **options):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def post_arrow(service, data):
    answer = service.client.post("/v1/steps", content=data, headers={"Content-Type": ARROW})
    assert answer.status_code < 500, answer.text
    service.serves()
    return answer


ROWS = {"session": ["s", "good"], "load": [1.0, 2.0], "temp": [1.0, None]}


def statuses_of(answer):
    assert answer.status_code == 200, answer.text
    return pa.ipc.open_stream(answer.content).read_all()["status"].to_pylist()


@pytest.mark.parametrize(
    "kind", [pa.dictionary(pa.int8(), pa.string()), pa.large_string(), pa.string_view()], ids=str
)
def test_names_may_come_as_any_kind_of_text(service, kind):
    table = pa.table(ROWS | {"session": pa.array(ROWS["session"]).cast(kind)})
    assert statuses_of(post_arrow(service, arrow_of(table))) == [200, 200]


BIG = "x" * (1 << 20)


def viewed_often(text, count):
    """Views of one text: its length, its first bytes, which buffer it is in, and where."""
    data = text.encode()
    view = struct.pack("<i4sii", len(data), data[:4], 0, 0)
    buffers = [None, pa.py_buffer(view * count), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string_view(), count, buffers)


@pytest.mark.parametrize(
    "names",
    [
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(90_000, np.int32)), [BIG]),
        viewed_often(BIG, 90_000),
        pa.RunEndEncodedArray.from_arrays(pa.array([90_000], pa.int32()), [BIG]),
    ],
    ids=lambda names: str(names.type),
)
def test_a_name_that_is_repeated_by_reference_does_not_unfold(service, names):
    before = service.rss_bytes()
    data = arrow_of(pa.table({"session": names, "load": np.zeros(90_000)}))
    assert len(data) < 4 << 20
    answer = post_arrow(service, data)
    assert answer.status_code in (400, 413, 422), answer.text[:500]
    assert service.rss_bytes() - before < 64 << 20


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressed_columns_are_refused_before_they_unfold(service, codec):
    before = service.rss_bytes()
    zeros = np.zeros(16_000_000)
    data = arrow_of(pa.table({"session": pa.nulls(len(zeros), pa.string()), "load": zeros}),
                    compression=codec)  # fmt: skip
    assert len(data) < 16 << 20
    answer = post_arrow(service, data)
    assert answer.status_code == 422
    assert "compress" in answer.json()["detail"]
    assert service.rss_bytes() - before < 64 << 20
    small = arrow_of(pa.table(ROWS), compression=codec)
    assert post_arrow(service, small).status_code == 422


ODD_COLUMNS = {
    "nested 60 deep": lambda: _nested(60),
    "lists that overlap": lambda: pa.ListViewArray.from_arrays(
        pa.array([0, 0], pa.int32()), pa.array([2, 2], pa.int32()), pa.array([1.0, 2.0])
    ),
    "structures": lambda: pa.array([{"load": 1.0}, {"load": 2.0}]),
    "unions": lambda: pa.UnionArray.from_sparse(
        pa.array([0, 0], pa.int8()), [pa.array([1.0, 2.0])]
    ),
    "a dictionary of numbers": lambda: pa.array([1.0, 2.0]).dictionary_encode(),
    "lists of texts": lambda: pa.array([["1", "2"], ["1", "2"]]),
    "runs": lambda: pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), [1.0]),
    "an extension": lambda: pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([b"x" * 16] * 2, pa.binary(16))
    ),
}  # fmt: skip


def _nested(depth):
    array = pa.array([1.0, 2.0])
    for _ in range(depth):
        array = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), array)
    return array


@pytest.mark.parametrize("column", ["session", "step", "load", "observations"])
@pytest.mark.parametrize("kind", ODD_COLUMNS)
def test_odd_columns_are_refused(service, kind, column):
    columns = {"session": ["s", "good"], "load": [1.0, 2.0]}
    if column == "observations":
        del columns["load"]
    answer = post_arrow(service, arrow_of(pa.table(columns | {column: ODD_COLUMNS[kind]()})))
    assert answer.status_code in (400, 422), answer.text


def try_altered_arrow(service, seed):
    chance = random.Random(seed)
    names = pa.array(ROWS["session"])
    kind = chance.choice((pa.string(), pa.dictionary(pa.int8(), pa.string()), pa.string_view()))
    table = pa.table(ROWS | {"session": names.cast(kind), "step": pa.array([None, 3], pa.int64())})
    compression = chance.choice((None, None, "zstd"))
    post_arrow(service, altered(arrow_of(table, compression=compression), chance))


def test_altered_arrow_with_dictionaries_and_compression_is_no_5xx(service):
    for seed in range(NUM_ROUNDS):
        try_altered_arrow(service, seed)


def test_altered_arrow_leaves_no_memory_and_no_descriptors_behind(service):
    def rounds(first, last):
        for seed in range(first, last):
            try_altered_arrow(service, seed)

    service.takes_no_more_after(rounds, 1000, 1000 + 2 * NUM_ROUNDS)
