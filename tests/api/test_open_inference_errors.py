"""Errors of `/v2` speak of sequences, inputs and parameters, and carry the id of their request."""

import ast
import re
from pathlib import Path
from string import Formatter

import numpy as np
import pytest

import service
from service.api.v2.wordings import SEQUENCES
from service.errors import InvalidInputError
from service.wordings import SESSIONS, case
from tests.api.support import serving
from tests.api.test_open_inference import START_S
from tests.fakes.bundles import DAY_S, write_captioner

ONLY_UNDER_V1 = {"session-exists-resume", "session-exists-replace", "digest-mismatch-key"}
WORDS_OF_V1 = re.compile(
    r'session (?!store|record)|/v1/|"observations"|"start"|if_exists'
    r"|instances\[|its step\b|v2:"
)
SHARED = [
    path
    for folder, others in (
        ("engine", {"operations.py", "bulk.py", "bulk_rows.py", "snapshot.py", "repository.py"}),
        ("stores", {"sqlite_check.py", "base.py", "redis_server.py"}),
    )
    for path in sorted((Path(service.__file__).parent / folder).glob("*.py"))
    if path.name not in others
]
"""What a request of `/v2` passes through as well."""


def x_of(*shape, data=None, **changes):
    values = [0.5] * int(np.prod(shape)) if data is None else data
    return {"name": "x", "shape": list(shape), "datatype": "FP32", "data": values} | changes


def times(*days):
    data = [START_S + DAY_S * day for day in days]
    return {"name": "time", "shape": [1, len(days)], "datatype": "INT64", "data": data}


async def refused(client, model, body, status=400):
    answer = await client.post(f"/v2/models/{model}/infer", json={"id": "mine"} | body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert set(told) == {"error", "id"}
    assert told["id"] == "mine"
    assert not WORDS_OF_V1.search(told["error"]), told["error"]
    return told["error"]


def test_every_case_has_words_for_v2_that_need_no_more_than_its_data():
    assert set(SESSIONS) == set(SEQUENCES) | ONLY_UNDER_V1
    for name, template in SEQUENCES.items():
        assert not WORDS_OF_V1.search(template), name
        needed, given = fields_of(template), fields_of(SESSIONS[name])
        assert needed - {"sequence", "input"} <= given, name


def fields_of(template):
    return {name for _, name, _, _ in Formatter().parse(template) if name}


def test_an_error_inside_an_error_is_worded_as_well():
    inner = InvalidInputError(case("text-expected", model="m"))
    outer = InvalidInputError(case("instance-refused", index=3, why=inner))
    assert outer.detail == "instances[3]: model 'm' reads text: expected \"text\", got none"
    told = outer.worded(SEQUENCES, sequence="the request")
    assert told == "row 3 of the inputs: model 'm' reads text: expected input 'text'"


@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.name)
def test_what_both_transports_pass_through_words_no_error_for_one_of_them(path):
    for call in ast.walk(ast.parse(path.read_text())):
        name = getattr(call.func, "id", "") if isinstance(call, ast.Call) else ""
        if name.endswith("Error") and name != "ValueError":  # that one reaches no client
            said = "".join(
                each.value
                for argument in call.args
                if not isinstance(argument, ast.Call)
                for each in ast.walk(argument)
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            )
            assert not WORDS_OF_V1.search(said), f"line {call.lineno}: use a case: {said}"


async def test_what_a_sequence_is_refused_for_is_told_of_the_sequence(client):
    rows, told = [x_of(1, 1, 2)], {"sequence_id": "hello"}
    start = told | {"sequence_start": True}
    error = await refused(client, "phase", {"inputs": rows, "parameters": told})
    assert error.startswith("inference request for sequence hello to model 'phase' must specify")
    await client.post("/v2/models/phase/infer", json={"inputs": rows, "parameters": start})
    for step, status in ((0, 409), (3, 409)):
        numbered = {"inputs": rows, "parameters": told | {"sequence_step": step}}
        error = await refused(client, "phase", numbered, status)
        assert "sequence hello of model 'phase'" in error
        assert f"sequence_step {step}" in error
    two = {"inputs": [x_of(2, 1, 2)], "parameters": told}
    assert "the inputs have 2 rows" in await refused(client, "phase", two)


async def test_a_start_that_is_refused_is_told_of_the_sequence():
    async with serving(v2_start="409") as client:
        start = {"parameters": {"sequence_id": 61, "sequence_start": True}}
        await client.post("/v2/models/phase/infer", json={"inputs": [x_of(1, 1, 2)]} | start)
        other = {"inputs": [x_of(1, 2, 2)]} | start
        error = await refused(client, "phase", other, 409)
        assert "sequence 61 of model 'phase' is open at step 1" in error


@pytest.mark.parametrize("parameters", [{}, {"sequence_id": 4, "sequence_start": True}])
async def test_times_and_rows_are_told_by_the_names_of_inputs(client, parameters):
    asked = {"parameters": parameters}
    error = await refused(client, "load", {"inputs": [x_of(1, 1, 2)]} | asked)
    assert "expected input 'time'" in error
    for inputs, told in (
        ([x_of(1, 2, 2), times(0, 1, 2)], "input 'time' has shape [1, 3]: expected [1, 2]"),
        ([x_of(1, 2, 2), times(0, 2)], "input 'time' holds times that are not 86400 s apart"),
        ([x_of(2, 2, 2), times(0, 1)], "input 'time' has shape [1, 2]: expected [2, 2]"),
        ([x_of(1, 1, 3), times(0)], "input 'x' has shape [1, 1, 3]"),
        ([x_of(1, 1, 2, data=[1.0]), times(0)], "input 'x' has 1 values: expected 2"),
        ([x_of(1, 1, 2, data=[[1, 2]]), times(0)], "data nested as [1, 2]: expected [1, 1, 2]"),
        ([x_of(1, 1, 2, data=[[1], [2, 3]]), times(0)], "of FP32"),
        ([x_of(1, 1, 2, data=["a", "b"]), times(0)], "input 'x' holds strings: expected FP32"),
        ([x_of(1, 1, 2, data=[1e300, 0]), times(0)], "has no room for"),
        ([x_of(1, 1, 2, shape=[-1, 1, 2]), times(0)], "the size -1 in its shape [-1, 1, 2]"),
        ([x_of(1, 1, 2), x_of(1, 1, 2), times(0)], "input 'x' is there twice"),
    ):
        assert told in await refused(client, "load", {"inputs": inputs} | asked)


async def test_a_time_that_does_not_follow_names_the_input(client):
    told = {"sequence_id": 4}
    start = {"inputs": [x_of(1, 1, 2), times(0)], "parameters": told | {"sequence_start": True}}
    await client.post("/v2/models/load/infer", json=start)
    late = {"inputs": [x_of(1, 1, 2), times(5)], "parameters": told}
    error = await refused(client, "load", late)
    assert error.startswith(f"input 'time' begins at {START_S + 5 * DAY_S}: expected")


async def test_a_model_about_vectors_names_its_input(tmp_path):
    write_captioner(tmp_path)
    async with serving(models=tmp_path) as client:
        [model] = client.app.context.engine.registry.all()
        text = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}
        error = await refused(client, model.name, {"inputs": [text]})
        assert f"expected input {model.x.name!r} with 3 numbers" in error


@pytest.mark.parametrize("name", ["sequence_id", "sequence_control_input"])
async def test_inputs_by_which_another_server_names_sequences_are_refused_with_a_hint(client, name):
    inputs = [x_of(1, 1, 2), {"name": name, "shape": [1], "datatype": "UINT64", "data": [1]}]
    error = await refused(client, "phase", {"inputs": inputs})
    assert '"parameters": {"sequence_id": 5' in error


async def test_sequences_that_are_named_beside_the_inputs_are_refused_with_a_hint(client):
    error = await refused(client, "phase", {"inputs": [x_of(1, 1, 2)], "sequence_id": 5})
    assert 'expected them in "parameters"' in error


@pytest.mark.parametrize(
    ("model", "body", "status"),
    [
        ("nothing", {"inputs": [x_of(1, 1, 2)]}, 404),
        ("phase", {"inputs": 3}, 400),
        ("phase", {"inputs": [x_of(1, 1, 2)], "parameters": 3}, 400),
        ("phase", {"inputs": [x_of(1, 1, 2)], "outputs": [{"name": "no"}]}, 400),
        ("phase", {"inputs": [x_of(1, 70_000, 2)] * 2}, 400),  # read in a process of its own
    ],
)
async def test_whatever_a_request_fails_for_its_id_comes_back(client, model, body, status):
    await refused(client, model, body, status)


async def test_a_request_that_finds_the_queue_full_gets_its_id_back(client):
    engine = client.app.context.engine
    worker = engine.workers.of(engine.registry.get("phase"))
    worker._backlog._bounds = worker._backlog._bounds._replace(max_jobs=0)
    worker._backlog.num_steps = 1  # an idle model lets anything in
    await refused(client, "phase", {"inputs": [x_of(1, 1, 2)]}, 429)


async def test_a_defect_of_ours_carries_the_id(client, monkeypatch):
    def fail(*_):
        raise RuntimeError("a defect of ours")

    monkeypatch.setattr("service.api.v2.infer_call.observations_of", fail)
    await refused(client, "phase", {"inputs": [x_of(1, 1, 2)]}, 500)


GETS = ("", "/health/live", "/health/ready", "/models/stats", "/models/phase",
        "/models/phase/ready", "/models/phase/config", "/models/phase/versions/1")  # fmt: skip


@pytest.mark.parametrize("path", GETS)
async def test_head_is_answered_as_get_without_a_body(client, path):
    got, head = await client.get(f"/v2{path}"), await client.head(f"/v2{path}")
    assert (head.status_code, head.content) == (200, b"")
    if path != "/models/stats":
        assert head.headers["content-length"] == got.headers["content-length"]


async def test_head_of_a_model_that_is_not_there_is_404(client):
    head = await client.head("/v2/models/nothing")
    assert (head.status_code, head.content) == (404, b"")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/health/live", "GET, HEAD"),
        ("POST", "", "GET, HEAD"),
        ("PUT", "/models/phase", "GET, HEAD"),
        ("GET", "/models/phase/infer", "POST"),
        ("HEAD", "/models/phase/infer", "POST"),
        ("GET", "/repository/index", "POST"),
    ],
)
async def test_another_method_is_405_and_the_answer_says_which(client, method, path, allowed):
    answer = await client.request(method, f"/v2{path}")
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert method == "HEAD" or list(answer.json()) == ["error"]
