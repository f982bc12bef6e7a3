"""Values of callers are sent as the JSON that the service reads."""

import json
import re
from collections import namedtuple
from datetime import UTC, date, datetime
from decimal import Decimal
from types import MappingProxyType

import httpx
import numpy as np
import pytest

from service.client import ClientError
from service.client.json_values import encode, fields_of, instance_of, requests_of
from tests.client.fake_service import FakeService, FakeTime, both_kinds, client_of, result_of

NAN = float("nan")


def sent(rows, **fields):
    return json.loads(encode(fields_of(rows, fields)))


def without_address(value):
    """The same in every process that collects the tests."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ([[1, 2.5], [3, None]], [[1, 2.5], [3, None]]),
        ([[1, NAN]], [[1, None]]),
        ({"a": 1.5, "b": NAN}, [{"a": 1.5, "b": None}]),
        (MappingProxyType({"a": 1}), [{"a": 1}]),
        ([MappingProxyType({"a": 1})], [{"a": 1}]),
        (namedtuple("Row", "a b")(1, 2), [{"a": 1, "b": 2}]),
        ([1.5, 2], [[1.5, 2]]),
        ((1.5, None), [[1.5, None]]),
        ([None, None], [[None, None]]),
        (3, [[3]]),
        (np.float32(0.5), [[0.5]]),
        (np.array(7), [[7]]),
        (np.array([1.0, NAN]), [[1.0, None]]),
        (np.array([[1, 2], [3, 4]], np.int16), [[1, 2], [3, 4]]),
        ([np.array([1.0, 2.0]), np.array([3.0, NAN])], [[1.0, 2.0], [3.0, None]]),
        ([np.float32(0.5), np.int64(2)], [[0.5, 2]]),
        ([{"a": np.float16(0.5), np.str_("b"): np.float64("nan")}], [{"a": 0.5, "b": None}]),
        ((row for row in [[1], [2]]), [[1], [2]]),
        ([(each for each in (1, NAN)), [3, 4]], [[1, None], [3, 4]]),
        ([Decimal("0.5")], [[0.5]]),
        ([], []),
        (np.zeros((0, 2)), []),
    ],
    ids=without_address,
)
def test_rows_are_read_from_lists_arrays_and_single_rows(given, rows):
    assert sent(given, step=3) == {"step": 3, "observations": rows}


def test_text_in_place_of_rows_is_sent_as_text():
    assert sent("a wonder", final=True) == {"text": "a wonder", "final": True}
    assert sent(None, text="ful") == {"text": "ful"}
    with pytest.raises(ClientError, match="two texts"):
        sent("a", text="b")


def test_times_and_other_scalars_are_sent_as_json():
    body = {
        "date": date(2016, 8, 22),
        "time": datetime(2016, 8, 22, 3, tzinfo=UTC),
        "day": np.datetime64("2016-08-22"),
        "nanoseconds": np.datetime64("2016-08-22T00:00:00.000000001"),
        "none": np.datetime64("NaT"),
        "many": np.array(["2016-08-22", "NaT"], "datetime64[ns]"),
        "truth": np.bool_(True),
        "tensors": {"x": np.ones((1, 2), np.float32)},
    }
    assert json.loads(encode(body)) == {
        "date": "2016-08-22",
        "time": "2016-08-22T03:00:00+00:00",
        "day": "2016-08-22T00:00:00",
        "nanoseconds": "2016-08-22T00:00:00",
        "none": None,
        "many": ["2016-08-22T00:00:00", None],
        "truth": True,
        "tensors": {"x": [[1.0, 1.0]]},
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("inf"), "expected finite numbers.* found inf"),
        (np.array([1.0, -np.inf]), "found -inf"),
        (object(), "which JSON cannot express"),
        (b"x", "of type bytes, which JSON cannot express"),
        (1j, "complex"),
        ({(1, 2): 3}, r"found \(1, 2\)"),
    ],
    ids=without_address,
)
def test_a_value_that_json_cannot_express_is_refused_by_name(value, message):
    with pytest.raises(ClientError, match=message):
        sent([[value]])


def test_a_frame_of_pandas_is_sent_as_rows_and_its_index_as_times():
    pandas = pytest.importorskip("pandas")
    times = pandas.date_range("2016-08-22", periods=2)
    frame = pandas.DataFrame({"a": [1.5, NAN], "b": [1, 2]}, index=times)
    rows = [{"a": 1.5, "b": 1}, {"a": None, "b": 2}]
    assert sent(frame)["observations"] == rows
    assert sent(frame.iloc[1])["observations"] == [rows[1]]
    assert sent(frame.iloc[:1])["observations"] == rows[:1]
    assert sent(frame["a"])["observations"] == [{"a": 1.5}, {"a": None}]
    assert sent(frame.to_numpy())["observations"] == [[1.5, 1], [None, 2]]
    assert sent(pandas.DataFrame([[1, 2]]))["observations"] == [[1, 2]]
    whole = pandas.DataFrame({"a": pandas.array([1, None], dtype="Int64")})
    assert sent(whole)["observations"] == [{"a": 1}, {"a": None}]
    history = json.loads(encode({"history": instance_of(frame)}))["history"]
    assert history == {"observations": rows, "start": "2016-08-22T00:00:00"}
    assert "start" not in instance_of(frame.reset_index(drop=True))


def test_a_frame_of_polars_is_sent_as_rows():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": [1.5, None], "b": [1, 2]})
    rows = [{"a": 1.5, "b": 1}, {"a": None, "b": 2}]
    assert sent(frame)["observations"] == rows
    assert sent(frame.row(0, named=True))["observations"] == rows[:1]
    assert sent(frame.row(0))["observations"] == [[1.5, 1]]
    assert sent(frame["a"])["observations"] == [{"a": 1.5}, {"a": None}]
    assert sent(frame.to_numpy())["observations"] == [[1.5, 1], [None, 2]]


def test_a_table_of_arrow_is_sent_as_rows():
    pyarrow = pytest.importorskip("pyarrow")
    assert sent(pyarrow.table({"a": [1, None]}))["observations"] == [{"a": 1}, {"a": None}]


def frames_with_duplicate_names():
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    twice = pandas.concat([frame, frame], axis=1)
    table = pyarrow.table([[1.0]] * 4, names=["a", "b", "a", "b"])
    return [twice, twice.iloc[0], table, table.to_batches()[0]]


@pytest.mark.parametrize("index", range(4), ids=["frame", "series", "table", "batch"])
@both_kinds
async def test_a_frame_with_duplicate_names_is_refused_by_every_method(kind, index):
    frame = frames_with_duplicate_names()[index]
    service = FakeService()
    client = client_of(kind, service, FakeTime())
    session = await result_of(client.open("load", session="s"))
    num_requests = len(service.requests)
    message = (
        r"expected columns with distinct names, found more than one named \['a', 'b'\]: rename"
    )
    for call in (
        lambda: session.step(frame),
        lambda: session.preview([frame] if index == 1 else frame),
        lambda: session.step(tensors={"x": frame}),
        lambda: client.step_many([(session, frame)]),
        lambda: client.predict("load", [frame]),
        lambda: client.predict("load", [{"observations": frame}]),
        lambda: client.open("load", history=frame),
        lambda: requests_of(frame),
        lambda: session.protocol.request_at(0, "steps", frame, {}),  # as a stream writes it
    ):
        with pytest.raises(ClientError, match=message):
            await result_of(call())
    assert len(service.requests) == num_requests


def test_columns_without_names_may_be_duplicates():
    pandas = pytest.importorskip("pandas")
    twice = pandas.DataFrame([[1, 2]], columns=[0, 0])
    assert sent(twice)["observations"] == [[1, 2]]


def test_a_lazy_frame_of_polars_is_collected():
    polars = pytest.importorskip("polars")
    frame = polars.LazyFrame({"a": [1.5, None]})
    rows = [{"a": 1.5}, {"a": None}]
    assert sent(frame)["observations"] == rows
    assert instance_of(frame) == {"observations": rows}
    assert instance_of({"observations": frame}) == {"observations": rows}
    assert requests_of(frame) == [[row] for row in rows]
    with pytest.raises(ClientError, match="which JSON cannot express"):
        sent([[polars.col("a")]])


@both_kinds
async def test_a_session_takes_single_rows_and_arrays_and_counts_them(kind):
    service = FakeService()
    session = await result_of(client_of(kind, service, FakeTime()).open("load", session="s"))
    for rows in ([1.0], {"a": NAN}, np.array([2.0]), np.array([[3.0], [4.0]])):
        await result_of(session.step(rows))
    assert service.applied == [[1.0], {"a": None}, [2.0], [3.0], [4.0]]
    assert session.count == 5


@both_kinds
async def test_predictions_take_texts_frames_and_dates(kind):
    service = FakeService()
    client = client_of(kind, service, FakeTime())
    service._answer = lambda _: httpx.Response(200, json={"predictions": []})
    instances = ["a text", np.ones((1, 2)), {"start": date(2020, 1, 2), "observations": [1, NAN]}]
    await result_of(client.predict("load", instances))
    assert json.loads(service.requests[0][2])["instances"] == [
        {"text": "a text"},
        {"observations": [[1.0, 1.0]]},
        {"start": "2020-01-02", "observations": [[1, None]]},
    ]
