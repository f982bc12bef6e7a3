"""Rows through `/v2`: their times, none at all, and starts of several steps."""

import numpy as np
import pytest

from service.api.v2.sequences import Sequence
from service.errors import InvalidInputError
from tests.api.support import serving
from tests.api.test_open_inference import START_S

ROWS = np.random.default_rng(6).normal(size=(1, 6, 2)).astype(np.float32)


async def infer_rows(client, x, times=None, model="load", **parameters):
    """Rows `[B, T, 2]`, as JSON."""
    inputs = [{"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.tolist()}]
    if times is not None:
        shape = list(x.shape[:2])
        inputs.append({"name": "time", "shape": shape, "datatype": "INT64", "data": times})
    body = {"inputs": inputs, "parameters": parameters}
    return await client.post(f"/v2/models/{model}/infer", json=body)


@pytest.mark.parametrize(
    ("time", "told"),
    [(-(10**17), "1824"), (2**63 - 1, "1824"), (START_S + 1, "1471824000"), (START_S, None)],
)
@pytest.mark.parametrize("parameters", [{}, {"sequence_id": 5, "sequence_start": True}])
async def test_a_time_at_which_no_series_begins_is_refused(client, time, told, parameters):
    answer = await infer_rows(client, np.zeros((1, 1, 2)), [time], **parameters)
    assert answer.status_code == (400 if told else 200), answer.text
    assert told is None or told in answer.json()["error"]
    assert (await client.get("/v1/sessions")).status_code == 200


@pytest.mark.parametrize("with_step", [True, False])
async def test_the_time_of_a_later_request_must_be_that_which_follows(client, with_step):
    x = np.zeros((1, 2, 2))
    days = [START_S + 86_400 * day for day in range(6)]

    def numbered(step):
        return {"sequence_id": 5} | ({"sequence_step": step} if with_step else {})

    await infer_rows(client, x, days[:2], **numbered(0), sequence_start=True)
    for first in (0, 1, 3):
        answer = await infer_rows(client, x, days[first : first + 2], **numbered(2))
        assert answer.status_code == 400
        assert f"expected {days[2]}" in answer.json()["error"]
    one = np.zeros((1, 1, 2))
    assert (await infer_rows(client, one, days[3:4], **numbered(2))).status_code == 400
    for step in (2, 3):
        answer = await infer_rows(client, one, days[step : step + 1], **numbered(step))
        assert answer.json()["parameters"]["sequence_step"] == step + 1
    assert (await infer_rows(client, x, **numbered(4))).status_code == 200


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("load", [{"name": "x", "shape": [0, 2, 2], "datatype": "FP32", "data": []}]),
        ("phase", [{"name": "x", "shape": [0, 2, 2], "datatype": "FP32", "data": []}]),
        ("load", [{"name": "x", "shape": [1, 0, 2], "datatype": "FP32", "data": []}]),
        ("mood", [{"name": "text", "shape": [0, 1], "datatype": "BYTES", "data": []}]),
    ],
)
async def test_a_request_without_rows_is_400(client, model, inputs):
    answer = await client.post(f"/v2/models/{model}/infer", json={"inputs": inputs})
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]


async def test_a_defect_of_ours_is_told_in_the_form_of_the_protocol(client, monkeypatch):
    def fail(*_):
        raise RuntimeError("a defect of ours")

    monkeypatch.setattr("service.api.v2.infer_call.observations_of", fail)
    answer = await infer_rows(client, np.zeros((1, 1, 2)))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert "defect of ours" not in answer.text


async def tagged(client, rows, **parameters):
    """What a tagger says of every row."""
    answer = await infer_rows(client, rows, model="phase", emit="all", **parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"][0]["data"]


@pytest.mark.parametrize("way", ["restart", "409"])
async def test_a_numbered_start_of_several_steps_is_a_retry_or_begins_anew(way):
    async with serving(v2_start=way) as client:
        start = {"sequence_id": 9, "sequence_start": True, "sequence_step": 0}
        first = await tagged(client, ROWS[:, :2])
        for _ in range(2):
            assert await tagged(client, ROWS[:, :2], **start) == pytest.approx(first)
        for step in (2, 3):
            await tagged(client, ROWS[:, step : step + 1], sequence_id=9, sequence_step=step)
        late = await infer_rows(client, ROWS[:, :2], model="phase", emit="all", **start)
        assert late.status_code == 409  # the same again is no new start, however late it comes
        await tagged(client, ROWS[:, 4:5], sequence_id=9, sequence_step=4)
        if way == "restart":
            for rows in (ROWS[:, 3:5], ROWS[:, 1:3]):  # right after a start, too
                expected = await tagged(client, rows)
                assert await tagged(client, rows, **start) == pytest.approx(expected)
            await tagged(client, ROWS[:, :1], sequence_id=9, sequence_step=2)
        else:
            answer = await infer_rows(client, ROWS[:, 3:5], model="phase", emit="all", **start)
            assert (answer.status_code, "is open" in answer.json()["error"]) == (409, True)
            await tagged(client, ROWS[:, :1], sequence_id=9, sequence_step=5)


async def test_where_starts_are_refused_one_of_several_steps_does_not_go_on_with_another():
    async with serving(v2_start="409") as client:
        start = {"sequence_id": 9, "sequence_start": True}
        first = await tagged(client, ROWS[:, :2])
        for _ in range(2):  # the same again is a retry
            assert await tagged(client, ROWS[:, :2], **start) == pytest.approx(first)
        for more in ({}, {"sequence_end": True}):
            answer = await infer_rows(
                client, ROWS[:, 2:4], model="phase", emit="all", **start, **more
            )
            assert answer.status_code == 409
        third = await tagged(client, ROWS[:, 2:3], sequence_id=9)
        assert third == pytest.approx((await tagged(client, ROWS[:, :3]))[-len(third) :], abs=1e-5)


def test_a_long_sequence_id_is_told_its_limit():
    with pytest.raises(InvalidInputError, match="1025 characters: expected at most 1024"):
        Sequence.of({"sequence_id": "a" * 1025})
