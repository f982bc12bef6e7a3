"""Steps of many sessions in one request: every row by itself, in order, as JSON and as Arrow."""

import sys
from contextlib import asynccontextmanager

import numpy as np
import pyarrow as pa
import pytest

import service.api.sessions
from service.api.sessions.bulk import ARROW
from tests.api.support import serving

OPEN = {"model": "load", "version": "1", "start": "2016-08-22"}
ROW = [1.0, 2.0]
ARROW_HEADER = {"Content-Type": ARROW}


@pytest.fixture
async def client():
    """Its queue takes all that is sent at once, however slow the machine is."""
    async with serving(max_queue_s=3600) as client:
        yield client


async def opened(client, *names, **more):
    for name in names:
        (await client.post("/v1/sessions", json=OPEN | {"session": name} | more)).raise_for_status()


async def bulk(client, *steps):
    answer = await client.post("/v1/steps", json={"steps": list(steps)})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def stream_of(table):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


async def bulk_arrow(client, **columns):
    data = stream_of(pa.table(columns))
    answer = await client.post("/v1/steps", content=data, headers=ARROW_HEADER)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == ARROW
    return pa.ipc.open_stream(answer.content).read_all()


async def test_a_bulk_answers_each_step_as_alone(client):
    await opened(client, "a", "b", "alone")
    alone = await client.post("/v1/sessions/alone/steps", json={"step": 0, "observations": [ROW]})
    told = await bulk(
        client,
        {"session": "a", "step": 0, "observations": [ROW]},
        {"session": "b", "step": 0, "observations": [ROW, ROW], "emit": "all"},
        {"session": "a", "step": 1, "observations": [ROW]},
    )
    assert [each["status"] for each in told] == [200] * 3
    assert [each["step"] for each in told] == [1, 2, 2]
    assert told[0]["prediction"] == alone.json()["prediction"]
    assert told[1]["predictions"][0] == alone.json()["prediction"]
    again = await bulk(
        client, {"session": "b", "step": 0, "observations": [ROW, ROW], "emit": "all"}
    )
    assert again[0]["replayed"] is True


async def test_a_bad_step_fails_alone_and_skips_what_follows_it_in_its_session(client):
    await opened(client, "a", "b")
    told = await bulk(
        client,
        {"session": "a", "step": 0, "observations": [ROW]},
        {"session": "a", "step": 7, "observations": [ROW]},
        {"session": "b", "step": 0, "observations": [[1]]},
        {"session": "a", "observations": [ROW]},
        {"session": "b", "step": 0, "observations": [ROW]},
        {"session": "nobody", "observations": [ROW]},
    )
    assert [each["status"] for each in told] == [200, 409, 422, 409, 409, 404]
    codes = [each.get("error", {}).get("type", "")[10:] for each in told]
    assert codes == [
        "", "step-conflict", "invalid-input", "skipped", "skipped", "session-not-found"
    ]  # fmt: skip
    assert (await client.get("/v1/sessions/a")).json()["step"] == 1
    assert (await client.get("/v1/sessions/b")).json()["step"] == 0


async def test_arrow_columns_are_answered_by_columns(client):
    names = [f"s{n}" for n in range(200)]
    await opened(client, *names)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 200, 2)).astype(np.float32)
    for step in range(3):
        told = await bulk_arrow(
            client,
            session=names,
            step=[step] * 200,
            temp=values[step, :, 1],
            load=values[step, :, 0],
        )
    assert told.column_names == ["session", "step", "status", "error", "mean", "quantiles"]
    assert told["session"].to_pylist() == names
    assert set(told["step"].to_pylist()) == {3}
    assert set(told["status"].to_pylist()) == {200}
    assert told["error"].null_count == 200
    rows = [{"observations": values[:, n].tolist(), "start": OPEN["start"]} for n in range(200)]
    whole = await client.post("/v1/models/load/versions/1/predict", json={"instances": rows})
    expected = [each["mean"] for each in whole.json()["predictions"]]
    np.testing.assert_allclose(told["mean"].to_pylist(), expected, atol=1e-4)


async def test_one_bad_arrow_row_fails_alone(client):
    await opened(client, "a", "b", "c")
    (await client.post("/v1/sessions", json={"model": "mood", "session": "w"})).raise_for_status()
    told = await bulk_arrow(
        client,
        session=["a", "nobody", "b", "w", "b", "c", "bad name"],
        step=pa.array([0, 0, 5, 0, None, None, 0], pa.int32()),
        observations=[ROW] * 7,
    )
    assert told["status"].to_pylist() == [200, 404, 409, 422, 409, 200, 422]
    assert told["step"].to_pylist() == [1, None, None, None, None, 1, None]
    errors = told["error"].to_pylist()
    assert [(e or "").partition(":")[0] for e in errors] == [
        "", "session-not-found", "step-conflict", "invalid-input", "skipped", "", "invalid-input"
    ]  # fmt: skip
    assert [each is None for each in told["mean"].to_pylist()] == [
        n not in (0, 5) for n in range(7)
    ]


async def test_a_refused_json_row_is_located_in_its_request(client):
    await opened(client, "a", "b")
    told = await bulk(
        client,
        {"session": "a", "observations": [ROW]},
        {"session": "b", "observations": [ROW, [1e300, 1.0]]},
        {"session": "nobody", "observations": [ROW]},
        {"session": "a", "text": "words"},
    )
    details = [each["error"]["detail"] for each in told if "error" in each]
    assert details[0].startswith("body.steps[1].observations[1] holds 1e+300 in column 'load'")
    assert details[2].startswith("body.steps[3]: model 'load' reads")


FLOATS = (pa.float16(), pa.float32(), pa.float64())


@pytest.mark.parametrize("is_list", [True, False])
@pytest.mark.parametrize(
    ("value", "kind"),
    [(value, kind) for value in (np.inf, -np.inf) for kind in FLOATS] + [(1e300, pa.float64())],
    ids=str,
)
async def test_an_arrow_row_beyond_a_float_fails_alone_and_is_named(client, value, kind, is_list):
    await opened(client, "a", "b", "c")
    names = ["a", "b", "c", "b", "b", "nobody"]
    temps = [1.0, 1.0, None, value, 1.0, value]
    columns = {"load": [1.0] * 6, "temp": pa.array(np.array(temps, float), kind)}
    if is_list:
        flat = pa.array(np.array([[1.0, temp] for temp in temps], float).ravel(), kind)
        columns = {"observations": pa.FixedSizeListArray.from_arrays(flat, 2)}
    told = await bulk_arrow(client, session=names, **columns)
    assert told["status"].to_pylist() == [200, 200, 200, 422, 409, 404]
    errors = told["error"].to_pylist()
    assert errors[3].startswith(
        f"invalid-input: row 3 (counted from 0): column 'temp' holds {value:.6g}:"
    )
    assert errors[4].startswith("skipped: ")
    assert (await client.get("/v1/sessions/b")).json()["step"] == 1


async def test_an_arrow_request_of_nothing_but_rows_beyond_a_float_fails_row_by_row(client):
    await opened(client, "a", "b")
    told = await bulk_arrow(client, session=["a", "b", "a"], observations=[[np.inf, 1.0]] * 3)
    assert told["status"].to_pylist() == [422, 422, 409]
    assert told["mean"].null_count == 3
    assert (await client.get("/v1/sessions/a")).json()["step"] == 0


async def test_among_thousands_of_arrow_rows_one_fails_alone_and_its_later_ones_are_skipped(client):
    """More than are under way at once, so that its last row begins when the others have ended."""
    names, num_each = [f"s{n}" for n in range(100)], 12
    await opened(client, *names)
    bad = names.index("s7")
    steps = [step for step in range(num_each) for _ in names]
    steps[3 * len(names) + bad] = 99
    told = await bulk_arrow(
        client,
        session=names * num_each,
        step=steps,
        observations=[ROW] * (len(names) * num_each),
    )
    status = np.array(told["status"].to_pylist()).reshape(num_each, len(names))
    assert (np.delete(status, bad, axis=1) == 200).all()
    assert status[:, bad].tolist() == [200] * 3 + [409] * 9
    errors = told["error"].to_pylist()[bad :: len(names)]
    assert [(e or "").partition(":")[0] for e in errors] == (
        [""] * 3 + ["step-conflict"] + ["skipped"] * 8
    )
    for name, step in (("s7", 3), ("s8", num_each)):
        assert (await client.get(f"/v1/sessions/{name}")).json()["step"] == step


@asynccontextmanager
async def replaced_elsewhere(tmp_path, *names):
    """A process that believes of these sessions that they read text: another gave their names to
    sessions that read rows."""
    store = f"sqlite:///{tmp_path}/carry.db"
    async with serving(store=store) as here, serving(store=store) as there:
        for name in names:
            text = {"model": "mood", "session": name}
            (await here.post("/v1/sessions", json=text)).raise_for_status()
            told = await here.post(f"/v1/sessions/{name}/steps", json={"text": "a film"})
            told.raise_for_status()
            (await there.delete(f"/v1/sessions/{name}")).raise_for_status()
        await opened(there, *names)
        yield here, there


async def test_a_session_that_was_replaced_elsewhere_is_read_by_the_model_it_has_now(tmp_path):
    async with replaced_elsewhere(tmp_path, "s", "gone") as (here, there):
        (await there.delete("/v1/sessions/gone")).raise_for_status()
        told = await bulk(
            here,
            {"session": "s", "step": 0, "observations": [ROW]},
            {"session": "gone", "step": 0, "observations": [ROW]},
            {"session": "s", "step": 1, "observations": [ROW]},
            {"session": "s", "step": 2, "observations": [[1]]},
        )
        assert [each["status"] for each in told] == [200, 409, 200, 422]
        assert "mood" not in told[3]["error"]["detail"]


@pytest.mark.parametrize("order", [["s", "t"], ["fresh", "s"], ["s", "fresh"], ["gone", "s"]])
async def test_arrow_rows_of_sessions_that_were_replaced_elsewhere_are_applied(tmp_path, order):
    async with replaced_elsewhere(tmp_path, "s", "t", "gone") as (here, there):
        (await there.delete("/v1/sessions/gone")).raise_for_status()
        await opened(here, "fresh")
        await here.post("/v1/sessions/fresh/steps", json={"observations": [ROW]})
        told = await bulk_arrow(here, session=order, observations=[ROW] * 2)
        expected = [409 if name == "gone" else 200 for name in order]
        assert told["status"].to_pylist() == expected
        told = await bulk_arrow(here, session=order, observations=[ROW] * 2)
        assert told["status"].to_pylist() == expected


async def test_a_sequence_of_v2_is_no_session_of_a_bulk(client):
    await opened(client, "a")
    inputs = [
        {"name": "x", "shape": [1, 1, 2], "datatype": "FP32", "data": ROW},
        {"name": "time", "shape": [1, 1], "datatype": "INT64", "data": [1_471_824_000]},
    ]
    start = {"sequence_id": 5, "sequence_start": True}
    for parameters in (start, {"sequence_id": 5}):
        sent = {"inputs": inputs[: 2 if parameters is start else 1], "parameters": parameters}
        answer = await client.post("/v2/models/load/versions/1/infer", json=sent)
        assert answer.status_code == 200, answer.text
    await client.post("/v1/sessions/a/steps", json={"observations": [ROW]})
    told = await bulk_arrow(client, session=["a", "v2:load:i5"], observations=[ROW] * 2)
    assert told["status"].to_pylist() == [200, 422]


@pytest.mark.parametrize("whole", [True, False])
async def test_arrow_integers_are_rounded_as_other_numbers_are(client, whole):
    await opened(client, "a", "b")
    large = 20_000_001
    columns = {"load": [large], "temp": [3]}
    if whole:
        columns = {"observations": pa.array([[large, 3]], pa.list_(pa.int64()))}
    told = await bulk_arrow(client, session=["a"], **columns)
    alone = await client.post("/v1/sessions/b/steps", json={"observations": [[large, 3]]})
    assert told["status"].to_pylist() == [200]
    assert told["mean"][0].as_py() == pytest.approx(alone.json()["prediction"]["mean"])


async def test_a_null_is_a_missing_value(client):
    await opened(client, "a", "b")
    await client.post("/v1/sessions/b/steps", json={"observations": [{"load": 1.0}]})
    told = await bulk_arrow(client, session=["a"], load=[1], temp=pa.array([None], pa.float64()))
    alone = await client.post("/v1/sessions/b/steps", json={"step": 0, "observations": [[1, None]]})
    assert told["mean"][0].as_py() == pytest.approx(alone.json()["prediction"]["mean"])


NO_LIST = pa.nulls(1, pa.list_(pa.float32()))  # pyarrow's cast of it to fixed lists crashes
GOOD = stream_of(pa.table({"session": ["a"], "observations": [ROW]}))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"\xff" * 64, 400),
        (GOOD[: len(GOOD) // 2], 400),
        (GOOD[:8] + b"\xff\xff\xff\x7f" + GOOD[12:], 400),
        (stream_of(pa.table({"session": ["a"], "step": [-1], "observations": [ROW]})), 422),
        (stream_of(pa.table({"session": ["a"], "step": [0.5], "observations": [ROW]})), 422),
        (stream_of(pa.table({"session": ["a"], "step": ["x"], "observations": [ROW]})), 422),
        (stream_of(pa.table({"session": ["a"], "observations": [[1.0]]})), 422),
        (stream_of(pa.table({"session": ["a"], "observations": [["x", "y"]]})), 422),
        (stream_of(pa.table({"session": ["a"], "other": [1.0]})), 422),
        (stream_of(pa.table({"session": ["a"], "observations": NO_LIST})), 422),
        (stream_of(pa.table({"session": [None], "load": [1.0]})), 422),
        (stream_of(pa.table({"load": [1.0]})), 422),
        (stream_of(pa.table({"session": pa.array([], pa.string())})), 422),
    ],
)
async def test_an_arrow_body_that_does_not_fit_is_refused_whole(client, data, status):
    await opened(client, "a")
    answer = await client.post("/v1/steps", content=data, headers=ARROW_HEADER)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await client.get("/v1/sessions/a")).json()["step"] == 0


async def test_without_pyarrow_an_arrow_body_is_refused_with_a_remedy(client, monkeypatch):
    monkeypatch.delattr(service.api.sessions, "arrow", raising=False)
    monkeypatch.delitem(sys.modules, "service.api.sessions.arrow", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    answer = await client.post("/v1/steps", content=GOOD, headers=ARROW_HEADER)
    assert answer.status_code == 415
    assert "bulk" in answer.json()["detail"]


async def test_a_bulk_under_one_idempotency_key_is_refused_and_nothing_applied(client):
    await opened(client, "a")
    body = {"steps": [{"session": "a", "observations": [ROW]}]}
    key = {"Idempotency-Key": "k"}
    for sent in ({"json": body}, {"content": GOOD}):
        headers = key | (ARROW_HEADER if "content" in sent else {})
        answer = await client.post("/v1/steps", headers=headers, **sent)
        assert answer.status_code == 422
        assert "step" in answer.json()["detail"]
    assert (await client.get("/v1/sessions/a")).json()["step"] == 0


async def test_a_big_json_bulk_is_refused_with_a_remedy(client):
    answer = await client.post("/v1/steps", json={"steps": [], "x": "x" * (1 << 18)})
    assert answer.status_code == 413
    assert ARROW in answer.json()["detail"]


@pytest.mark.parametrize("name", ["step", "temp"])
async def test_an_arrow_column_of_booleans_is_no_column_of_numbers(client, name):
    await opened(client, "a")
    data = stream_of(pa.table({"session": ["a"], name: [True]}))
    answer = await client.post("/v1/steps", content=data, headers=ARROW_HEADER)
    assert answer.status_code == 422, answer.text
    assert f"column '{name}' is of type bool" in answer.json()["detail"]
