"""Requests made from the API's own description, held against what it promises of the answers.

Deterministic: the same description is met by the same requests. The application is served on a
socket by a thread of its own, as the client that makes the requests is a blocking one.
"""

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from tests.api.keys import headers, keys_file
from tests.api.support import listening_apart

SESSIONS = {"s": "load", "m": "mood", "v": "verse"}
PHASES = ("examples", "coverage", "fuzzing", "stateful")
NOT_CHECKED = {
    # What fits the schema may not fit the model: its columns, its kind, its limits are 422 as well.
    "positive_data_acceptance": {"enabled": False},
}
OPERATIONS = [
    # A bulk's bad step fails alone, inside an answer that is 200.
    {"include-path": "/v1/steps", "checks": {"negative_data_rejection": {"enabled": False}}},
    # 404 is also for a version that the model of the session does not have.
    {
        "include-path": "/v1/sessions/{session}/upgrade",
        "checks": {"ensure_resource_availability": {"enabled": False}},
    },
    # They would take the models away from the others; tests/api/test_repository.py tries them.
    {"include-path-regex": "^/v2/repository/models/", "enabled": False},
]
CONFIG = {
    "seed": 1,
    "generation": {"deterministic": True, "max-examples": 8, "no-shrink": True},
    "max-stream-events": 1,
    "request-timeout": 20,
    "checks": NOT_CHECKED,
    "operations": OPERATIONS,
    "dictionaries": {
        "sessions": {"values": list(SESSIONS)},
        "models": {"values": list(SESSIONS.values())},
        "versions": {"values": ["1", "2"]},
    },
    "parameters": {
        "path.session": {"dictionary": "sessions", "probability": 0.6},
        "path.model": {"dictionary": "models", "probability": 0.6},
        "path.version": {"dictionary": "versions", "probability": 0.6},
        "body.model": {"dictionary": "models", "probability": 0.6},
        "body.session": {"dictionary": "sessions", "probability": 0.3},
    },
}


@schemathesis.serializer(
    "application/vnd.carry.snapshot",
    "application/vnd.apache.arrow.stream",
    "application/octet-stream",
)
def as_bytes(_, value):
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture
def client(tmp_path):
    """Of the served application, with a key and with open sessions."""
    path, keys = keys_file(tmp_path, us="admin")
    (tmp_path / "snapshot.keys").write_text("k" * 32)
    served = {"api_keys_file": path, "snapshot_key_file": tmp_path / "snapshot.keys"}
    with listening_apart(headers(keys["us"]), **served) as client:
        for name, model in SESSIONS.items():
            start = {"start": "2016-08-22", "replay": 4} if model == "load" else {}
            body = {"session": name, "model": model, "version": "1"} | start
            client.post("/v1/sessions", json=body).raise_for_status()
        yield client


def failures_of(event):
    """What one event of a run tells of answers that are not as described."""
    if isinstance(event, events.NonFatalError):
        yield f"{event.label}: {event.value}"
    if isinstance(event, events.FatalError):
        yield repr(event.exception)
    if isinstance(event, events.ScenarioFinished):
        for checks in event.recorder.checks.values():
            for check in checks:
                if info := check.failure_info:
                    failure = info.failure
                    said = f"{failure.title}\n{failure.message}\n{info.code_sample}"
                    yield f"{event.recorder.label}: {check.name}: {said}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("phase", PHASES)
def test_every_answer_is_as_described(client, phase):
    chosen = {each: {"enabled": each == phase} for each in PHASES}
    key = {"Authorization": client.headers["Authorization"]}
    config = SchemathesisConfig.from_dict(CONFIG | {"phases": chosen, "headers": key})
    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json", config=config)
    failures, checked = [], 0
    for event in from_schema(schema).execute():
        failures += failures_of(event)
        if isinstance(event, events.ScenarioFinished):
            checked += sum(map(len, event.recorder.checks.values()))
    assert not failures, "\n\n".join(failures)
    assert checked > 100
