"""KServe's time-series protocol: the same numbers as a prediction, in its own form."""

import pytest

from service.api.body_reader.reader import BIG_BODY_BYTES

PATH = "/v1/timeseries/forecast"
START = "2016-08-22T00:00:00Z"
VALUES = [1.0, None, -2.5, 4.0]
INPUT = {
    "type": "univariate_time_series",
    "name": "station",
    "series": VALUES,
    "frequency": "D",
    "start_timestamp": START,
}


def asked(*inputs, horizon=3, **options):
    return {
        "model": "load",
        "inputs": list(inputs) or [INPUT],
        "options": {"horizon": horizon} | options,
    }


async def forecasts(client, body):
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def predicted(client, rows):
    instance = {"start": START, "observations": rows}
    answer = await client.post("/v1/models/load/predict", json={"instances": [instance]})
    return answer.json()["predictions"][0]


async def test_a_series_is_forecast_as_the_models_own_door_does(client):
    told = await forecasts(client, asked(horizon=2, quantiles=[0.9, 0.1]))
    expected = await predicted(client, [[value, None] for value in VALUES])
    assert (told["status"], told["error"], told["model"]) == ("completed", None, "load")
    [output] = told["outputs"]
    assert (output["type"], output["status"]) == ("time_series_forecast", "completed")
    assert output["content"] == [
        {
            "type": "univariate_time_series",
            "name": "station",
            "mean_forecast": expected["mean"][:2],
            "frequency": "D",
            "start_timestamp": "2016-08-26T00:00:00Z",
            "quantiles": {level: expected["quantiles"][level][:2] for level in ("0.9", "0.1")},
        }
    ]


async def test_a_multivariate_series_has_all_columns_and_a_forecast_of_one(client):
    rows = [[1.0, 60.0], [None, 61.0], [3.0, None]]
    both = INPUT | {"type": "multivariate_time_series", "series": rows, "name": "both"}
    told = await forecasts(client, asked(INPUT, both, quantiles=[0.5]))
    expected = await predicted(client, rows)
    content = told["outputs"][1]["content"][0]
    assert (content["name"], content["type"]) == ("both", "univariate_time_series")
    assert content["mean_forecast"] == expected["mean"]
    assert content["quantiles"]["0.5"] == expected["quantiles"]["0.5"]
    ids = {told["id"], *(output["id"] for output in told["outputs"])}
    assert len(ids) == 3


@pytest.mark.parametrize("frequency", ["D", "day", "DAY"])
async def test_without_levels_only_the_mean_is_told_and_unknown_fields_are_passed_over(
    client, frequency
):
    body = asked(INPUT | {"frequency": frequency, "unit": "MW"}, temperature=1)
    told = await forecasts(client, body | {"metadata": {"request_id": 7}, "other": None})
    content = told["outputs"][0]["content"][0]
    assert content["quantiles"] is None
    assert content["frequency"] == frequency


async def test_a_big_body_is_answered_alike(client):
    told = await forecasts(client, asked(horizon=1))
    big = await forecasts(client, asked(horizon=1) | {"metadata": {"x": "y" * BIG_BODY_BYTES}})
    assert big["outputs"][0]["content"] == told["outputs"][0]["content"]
    wrong = asked() | {"options": {}, "metadata": {"x": "y" * BIG_BODY_BYTES}}
    answer = await client.post(PATH, json=wrong)
    assert answer.status_code == 422
    assert answer.json()["error"]["type"] == "invalid-input"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"series": []}, "inputs[1].series"),
        ({"series": [[1.0, 2.0]]}, "inputs[1].series"),
        ({"series": [1e39]}, "inputs[1].series"),
        ({"type": "multivariate_time_series"}, "inputs[1].series"),
        ({"type": "multivariate_time_series", "series": [[1.0]]}, "inputs[1].series"),
        ({"type": "multivariate_time_series", "series": [[1, 2], [1]]}, "inputs[1].series"),
        ({"frequency": "H"}, "inputs[1].frequency"),
        ({"frequency": "month"}, "inputs[1].frequency"),
        ({"start_timestamp": None}, "inputs[1].start_timestamp"),
        ({"name": "station"}, "inputs[1].name"),
    ],
)
async def test_a_bad_input_fails_the_call_and_is_named(client, change, param):
    answer = await client.post(PATH, json=asked(INPUT, INPUT | {"name": "other"} | change))
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert problem["type"] == "urn:carry:invalid-input"
    assert problem["error"]["param"] == param
    assert problem["error"]["message"] == problem["detail"]
    assert problem["error"]["code"] == "422"


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"model": "mood"}, 422, "invalid-input"),
        ({"model": "nothing"}, 404, "model-not-found"),
        ({"inputs": []}, 422, "invalid-input"),
        ({"inputs": [INPUT | {"series": ["1"]}]}, 422, "invalid-input"),
        ({"inputs": [INPUT | {"series": [1.0, [2.0]]}]}, 422, "invalid-input"),
        ({"inputs": [INPUT | {"start_timestamp": "2016-08-22T13:10:00Z"}]}, 422, "invalid-input"),
        ({"options": {"horizon": 4}}, 422, "invalid-input"),
        ({"options": {"horizon": 0}}, 422, "invalid-input"),
        ({"options": {"horizon": 1, "quantiles": [0.3]}}, 422, "invalid-input"),
    ],
)
async def test_what_is_refused_is_said_as_the_protocol_says_it_and_as_we_do(
    client, change, status, kind
):
    answer = await client.post(PATH, json=asked() | change)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["error"]["type"] == kind
    assert answer.json()["type"] == f"urn:carry:{kind}"
    broken = await client.post(PATH, content=b"{", headers={"Content-Type": "application/json"})
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "400")
