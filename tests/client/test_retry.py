"""A request is repeated unchanged until it has a final response or its time is up."""

import json
import logging
import socket
import ssl

import httpx
import pytest

import service.errors
from service.client import (
    ClientError,
    InvalidRequestError,
    KeyRefusedError,
    NotFoundError,
    ProblemError,
    UnansweredError,
    UnreachableError,
)
from service.client.problems import BY_CODE, BY_STATUS
from service.client.retry import LATER
from service.client.streaming.wire import Address
from tests.client.fake_service import (
    FakeService,
    FakeTime,
    both_kinds,
    client_of,
    problem,
    result_of,
)

pytestmark = both_kinds


@pytest.fixture
def service_of_one():
    return FakeService()


@pytest.fixture
def clock():
    return FakeTime()


async def open_session(kind, service_of_one, clock, **options):
    client = client_of(kind, service_of_one, clock, **options)
    return await result_of(client.open("load", session="s"))


async def test_a_step_whose_answer_is_lost_is_repeated_and_applied_once(
    kind, service_of_one, clock
):
    session = await open_session(kind, service_of_one, clock)
    service_of_one.outcomes = ["cut", "lost", problem(503, "store-unavailable")]
    reply = await result_of(session.step([[1.0]]))
    assert service_of_one.applied == [[1.0]]
    assert reply.is_replayed
    assert (reply.step, session.count) == (1, 1)
    assert len(set(service_of_one.requests[1:])) == 1
    assert not (await result_of(session.step([[2.0]]))).is_replayed


async def test_waits_double_up_to_a_bound_and_retry_after_is_added(kind, service_of_one, clock):
    session = await open_session(kind, service_of_one, clock)
    service_of_one.outcomes = ["cut"] * 8 + [problem(429, "queue-full", retry_after="7")]
    await result_of(session.step([[1.0]]))
    assert clock.waits == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.5, 2.5, 9.5])


async def test_a_retry_after_that_is_not_in_seconds_is_ignored(kind, service_of_one, clock):
    session = await open_session(kind, service_of_one, clock)
    date = "Fri, 31 Dec 1999 23:59:59 GMT"
    service_of_one.outcomes = [problem(503, "draining", retry_after=date)]
    await result_of(session.step([[1.0]]))
    assert clock.waits == pytest.approx([0.05])


async def test_when_its_time_is_up_a_step_is_unanswered_and_can_be_repeated(
    kind, service_of_one, clock
):
    session = await open_session(kind, service_of_one, clock)
    service_of_one.outcomes = ["lost"] + ["cut"] * 100
    with pytest.raises(UnansweredError, match="ConnectError: cut") as caught:
        await result_of(session.step([[1.0]]))
    assert caught.value.problem is None
    assert 50 < clock.now <= 60
    assert session.count == 0
    service_of_one.outcomes = []
    assert (await result_of(session.step([[1.0]]))).is_replayed
    assert service_of_one.applied == [[1.0]]


async def test_no_wait_exceeds_the_budget_and_the_last_refusal_is_reported(
    kind, service_of_one, clock
):
    session = await open_session(kind, service_of_one, clock)
    service_of_one.outcomes = [problem(429, "rate-limited", retry_after="86400")]
    with pytest.raises(UnansweredError, match="rate-limited") as caught:
        await result_of(session.step([[1.0]]))
    assert caught.value.problem.code == "rate-limited"
    assert clock.waits == []


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (422, "invalid-input", InvalidRequestError),
        (401, "unauthenticated", KeyRefusedError),
        (404, "session-expired", NotFoundError),
        (500, "model-failed", ProblemError),
    ],
)
async def test_a_refusal_is_raised_at_once_with_its_members(
    kind, service_of_one, clock, status, code, error
):
    session = await open_session(kind, service_of_one, clock)
    service_of_one.outcomes = [problem(status, code, errors=[{"where": "x"}])]
    with pytest.raises(error) as caught:
        await result_of(session.step([[1.0]]))
    problem_error = caught.value
    assert (problem_error.code, problem_error.status, problem_error.detail) == (code, status, "why")
    assert problem_error.members == {"errors": [{"where": "x"}]}
    assert len(service_of_one.requests) == 2


async def test_a_page_of_a_proxy_is_reported_by_its_status(kind, service_of_one, clock):
    session = await open_session(kind, service_of_one, clock)
    service_of_one.outcomes = [httpx.Response(418, text="<html>")]
    with pytest.raises(ProblemError, match="<html>") as caught:
        await result_of(session.step([[1.0]]))
    assert caught.value.code == "http-418"
    service_of_one.outcomes = [httpx.Response(200, text="<html>")]
    with pytest.raises(ProblemError, match="is this the address of Carry"):
        await result_of(session.step([[1.0]]))
    assert session.count == 0


async def test_predictions_name_model_version_and_options(kind, service_of_one, clock):
    client = client_of(kind, service_of_one, clock)
    service_of_one.outcomes = ["cut", httpx.Response(200, json={"predictions": [{"mean": [1]}]})]
    predictions = await result_of(
        client.predict("load", [{"observations": [[1]]}], version="2", horizon=1)
    )
    assert predictions == [{"mean": [1]}]
    method, path, content = service_of_one.requests[-1]
    assert (method, path) == ("POST", "/v1/models/load/versions/2/predict")
    assert json.loads(content) == {"instances": [{"observations": [[1]]}], "horizon": 1}


async def test_an_unsupported_protocol_is_raised_at_once(kind, clock):
    def refuse(request):
        raise httpx.UnsupportedProtocol("no http", request=request)

    service_of_none = FakeService()
    service_of_none.handle = refuse
    client = client_of(kind, service_of_none, clock)
    with pytest.raises(httpx.UnsupportedProtocol):
        await result_of(client.open("load"))
    assert clock.waits == []


def refusals():
    reset = httpx.ConnectError("All connection attempts failed")
    reset.__cause__ = OSError("All connection attempts failed")
    several = [ConnectionRefusedError(111, "refused"), ConnectionRefusedError(111, "refused")]
    reset.__cause__.__cause__ = ExceptionGroup("multiple connection attempts failed", several)
    unknown = httpx.ConnectError("Name or service not known")
    unknown.__cause__ = socket.gaierror(-2, "Name or service not known")
    return [httpx.ConnectError("[Errno 111] Connection refused"), reset, unknown]


@pytest.mark.parametrize("error", refusals(), ids=["refused", "all refused", "unknown host"])
async def test_a_first_connection_that_is_refused_fails_at_once_with_a_hint(kind, clock, error):
    service = FakeService()
    service.outcomes = [error]
    client = client_of(kind, service, clock)
    with pytest.raises(UnreachableError, match=r"http://carry \(.*make serve"):
        await result_of(client.open("load", session="s"))
    assert clock.waits == []
    session = await result_of(client.open("load", session="s"))
    service.outcomes = [error, error]
    await result_of(session.step([[1.0]]))  # it was there before, so the client retries
    assert len(clock.waits) == 2


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("localhost:9301", "give http://localhost:9301 or https://localhost:9301"),
        ("127.0.0.1:9301", "give http://127.0.0.1:9301 or"),
        ("[::1]:9301", r"give http://\[::1\]:9301 or"),
        ("carry", "give http://carry or"),
        ("ftp://carry", "found 'ftp://carry': correct it"),
        ("ws://carry", "correct it"),
        ("http://", "correct it"),
        ("http:/carry", "correct it"),
        ("http://carry:port", "correct it"),
        ("", "found '': correct it"),
    ],
)
async def test_an_invalid_address_is_refused_with_the_right_form(kind, clock, url, remedy):
    with pytest.raises(ClientError, match=f"expected .* http://HOST:PORT or https://.*{remedy}"):
        client_of(kind, FakeService(), clock, url)


def no_tls(reason):
    error = httpx.ConnectError(f"[SSL: {reason}] (_ssl.c:1000)")
    error.__cause__ = ssl.SSLError(1, f"[SSL: {reason}] (_ssl.c:1000)")
    return error


async def test_https_to_a_service_without_tls_fails_with_a_hint_at_the_scheme(kind, clock):
    service = FakeService()
    client = client_of(kind, service, clock, url="https://carry:9301")
    for reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        service.outcomes = [no_tls(reason)]
        with pytest.raises(
            UnreachableError, match=r"without TLS, the address is http://carry:9301$"
        ):
            await result_of(client.open("load", session="s"))
    service.outcomes = [no_tls("CERTIFICATE_VERIFY_FAILED")]
    with pytest.raises(UnreachableError) as caught:
        await result_of(client.open("load", session="s"))
    assert "without TLS" not in str(caught.value)


def test_a_stream_follows_the_scheme_of_the_service(kind):
    assert Address.of("https://carry/", None).url == "wss://carry"
    assert Address.of("HTTP://carry:1", None).url == "ws://carry:1"


async def test_each_wait_is_logged_with_its_reason(kind, service_of_one, clock, caplog):
    session = await open_session(kind, service_of_one, clock)
    service_of_one.outcomes = ["cut", problem(429, "queue-full", retry_after="7")]
    with caplog.at_level(logging.WARNING, "carry.client"):
        await result_of(session.step([[1.0]]))
    assert [record.getMessage() for record in caplog.records] == [
        "POST /v1/sessions/s/steps: ConnectError: cut; try 2 in 0.05 s, 60 s left",
        "POST /v1/sessions/s/steps: why (429 queue-full); try 3 in 7.10 s, 53 s left",
    ]


async def test_the_error_says_whether_the_request_may_have_been_applied(
    kind, service_of_one, clock
):
    session = await open_session(kind, service_of_one, clock)
    service_of_one.outcomes = ["cut"] * 100
    with pytest.raises(UnansweredError, match="It was not applied"):
        await result_of(session.step([[1.0]]))
    service_of_one.outcomes = ["lost"] + ["cut"] * 100
    with pytest.raises(UnansweredError, match="It may have been applied"):
        await result_of(session.step([[1.0]]))


def test_codes_and_statuses_are_those_of_the_service(kind):
    statuses = {
        error.code: error.status
        for error in vars(service.errors).values()
        if isinstance(error, type) and issubclass(error, service.errors.CarryError)
    }
    assert {statuses[code] for code in BY_CODE} == {409}
    retried = {429, 503, 408}
    assert retried <= LATER
    assert {status for status in statuses.values() if status < 431} - retried <= set(BY_STATUS)
