import pytest

from service.api import limits

ROWS = [{"load": 1.5, "temp": None}, [2, 3.5], {"temp": 4}]


async def predict(client, model="load", **body):
    return await client.post(f"/v1/models/{model}/predict", json=body)


async def test_a_forecast_starts_after_the_last_row(client):
    instance = {"id": "a", "start": "2016-08-22", "observations": ROWS}
    answer = (await predict(client, instances=[instance])).json()
    assert (answer["model"], answer["version"]) == ("load", "2")
    [forecast] = answer["predictions"]
    assert forecast["id"] == "a"
    assert forecast["start"] == "2016-08-25T00:00:00Z"
    assert forecast["frequency"] == "P1D"
    assert list(forecast["quantiles"]) == ["0.1", "0.5", "0.9"]
    assert len(forecast["mean"]) == len(forecast["quantiles"]["0.5"]) == 3


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("2016-08-22T09:00:00+09:00", "2016-08-25T00:00:00Z"),
        ("2016-08-21T19:00:00-05:00", "2016-08-25T00:00:00Z"),
        ("2016-08-22T00:00:00", "2016-08-25T00:00:00Z"),
    ],
)
async def test_a_start_keeps_its_zone_and_is_utc_without_one(client, start, expected):
    instance = {"start": start, "observations": ROWS}
    [forecast] = (await predict(client, instances=[instance])).json()["predictions"]
    assert forecast["start"] == expected


async def test_a_client_chooses_levels_and_horizon(client):
    instance = {"start": "2016-08-22", "observations": ROWS}
    answer = await predict(client, instances=[instance], quantiles=[0.9, 0.1], horizon=2)
    [forecast] = answer.json()["predictions"]
    assert {k: len(v) for k, v in forecast["quantiles"].items()} == {"0.9": 2, "0.1": 2}
    assert all(a > b for a, b in zip(*forecast["quantiles"].values(), strict=True))


async def test_instances_of_unlike_length_are_answered_as_if_alone(client):
    instances = [{"start": "2016-08-22", "observations": ROWS[:n]} for n in (1, 3, 2)]
    together = (await predict(client, instances=instances)).json()["predictions"]
    for instance, expected in zip(instances, together, strict=True):
        [alone] = (await predict(client, instances=[instance])).json()["predictions"]
        assert alone["mean"] == pytest.approx(expected["mean"], abs=1e-5)


async def test_a_version_can_be_named(client):
    body = {"instances": [{"start": "2016-08-22", "observations": ROWS}]}
    one = (await client.post("/v1/models/load/versions/1/predict", json=body)).json()
    two = (await client.post("/v1/models/load/versions/2/predict", json=body)).json()
    assert (one["version"], two["version"]) == ("1", "2")
    assert one["predictions"] != two["predictions"]


async def test_texts_are_classified(client):
    answer = await predict(client, "mood", instances=[{"text": "a wonderful film"}, {"text": ""}])
    for prediction in answer.json()["predictions"]:
        assert sum(prediction["probabilities"].values()) == pytest.approx(1)
        assert prediction["probabilities"][prediction["label"]] >= 0.5


@pytest.mark.parametrize(
    ("model", "body", "status", "told"),
    [
        ("none", {"instances": [{"text": "a"}]}, 404, "no model 'none'"),
        ("load", {"instances": []}, 422, "instances"),
        ("load", {"instances": [{"text": "a"}]}, 422, 'reads "observations"'),
        ("mood", {"instances": [{"observations": [[1, 2]]}]}, 422, 'reads "text"'),
        ("mood", {"instances": [{"text": "a"}, {}]}, 422, "instances[1]"),
        ("load", {"instances": [{"observations": [[1, 2]]}]}, 422, "uses the time"),
        ("load", {"instances": [{"start": "x", "observations": [[1, 2]]}]}, 422, "start"),
        (
            "load",
            {"instances": [{"start": "2016-08-22T02:00", "observations": [[1, 2]]}]},
            422,
            "midnight",
        ),
        ("load", {"instances": [{"start": "0001-01-01", "observations": [[1, 2]]}]}, 422, "1824"),
        ("load", {"instances": [{"start": "2016-08-22", "observations": []}]}, 422, "is empty"),
        ("load", {"instances": [{"start": "2016-08-22", "observations": [[1]]}]}, 422, "1 values"),
        ("load", {"instances": [{"start": "2016-08-22", "observations": [{"x": 1}]}]}, 422, "'x'"),
        (
            "load",
            {"instances": [{"start": "2016-08-22", "observations": [["1", 2]]}]},
            422,
            "number",
        ),
        (
            "load",
            {"instances": [{"start": "2016-08-22", "observations": [[True, 2]]}]},
            422,
            "number",
        ),
        (
            "load",
            {"instances": [{"start": "2016-08-22", "observations": [[1e39, 2]]}]},
            422,
            "expected numbers up to 1e+30",
        ),
        ("load", {"instances": [{"text": "a"}], "horizon": 4}, 422, "at most 3"),
        ("load", {"instances": [{"text": "a"}], "quantiles": [0.2]}, 422, "[0.2]"),
        ("mood", {"instances": [{"text": "a"}], "horizon": 1}, 422, "not a forecaster"),
        ("mood", {"instances": [{"text": "a"}], "surprise": 1}, 422, "surprise"),
        ("mood", {"instances": [{"text": "a" * 100_001}]}, 413, "100001 characters"),
        ("mood", {"instances": [{"text": "a"}] * 1025}, 413, "1025 instances"),
    ],
)
async def test_bad_input_is_refused_with_its_place(client, model, body, status, told):
    answer = await predict(client, model, **body)
    problem = answer.json()
    assert answer.status_code == status == problem["status"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["type"].startswith("urn:carry:")
    assert told in problem["detail"]


LOAD = {"start": "2016-08-22", "observations": ROWS}
PHASE = {"observations": [[1, 2]] * 3}


@pytest.mark.parametrize(
    ("model", "instances", "limit", "told"),
    [
        ("load", [LOAD] * 4, ("MAX_ROWS", 11), "12 observations in all: expected at most 11"),
        ("phase", [PHASE] * 4, ("MAX_ROWS", 11), "12 observations in all: expected at most 11"),
        ("phase", [PHASE] * 100, ("MAX_REPLY_BYTES", 1024), "bytes of outputs"),
        ("load", [LOAD] * 30, ("MAX_REPLY_BYTES", 1024), "bytes of outputs"),
    ],
)
async def test_limits_are_those_of_the_whole_request(
    client, monkeypatch, model, instances, limit, told
):
    monkeypatch.setattr(limits, *limit)
    answer = await predict(client, model, instances=instances)
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:carry:too-large")
    assert told in answer.json()["detail"]
    assert (await predict(client, model, instances=instances[:2])).status_code == 200


async def test_the_rows_of_a_whole_big_body_are_bounded(client):
    rows = {"start": "2016-08-22", "observations": [[1, 2]] * 4_000}
    answer = await predict(client, "load", instances=[rows] * 26)
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:carry:too-large")
    assert "104000 observations in all: expected at most 100000" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body", [b"{", b"", b"\xff", b"[1,", b'{"instances": NaN}', b"[" * 100_000]
)
async def test_a_body_that_is_no_json_is_a_problem_not_a_crash(client, body):
    headers = {"content-type": "application/json"}
    answer = await client.post("/v1/models/mood/predict", content=body, headers=headers)
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        (None, 415),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models/mood/predict", "/v1/sessions/s/steps"])
async def test_a_body_says_that_it_is_json(client, content_type, status, path):
    await client.post("/v1/sessions", json={"model": "mood", "session": "s"})
    content = b'{"text": "a"}' if "steps" in path else b'{"instances": [{"text": "a"}]}'
    headers = {} if content_type is None else {"content-type": content_type}
    answer = await client.post(path, content=content, headers=headers)
    assert answer.status_code == status
    if status == 415:
        assert "expected Content-Type: application/json" in answer.json()["detail"]


async def test_the_instance_that_does_not_fit_is_named(client):
    answer = await predict(
        client,
        instances=[{"start": "2016-08-22", "observations": [[1, 2]]}, {"observations": [[1, 2]]}],
    )
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("instances[1]: ")


async def test_an_id_with_half_a_surrogate_pair_is_refused(client):
    content = b'{"instances": [{"text": "a", "id": "\\ud800"}]}'
    headers = {"content-type": "application/json"}
    answer = await client.post("/v1/models/mood/predict", content=content, headers=headers)
    assert answer.status_code == 422
    assert "surrogate" in answer.text
