"""Events of a session and generated text: resumed, delivered once, and counted when done."""

import json

import httpx
import pytest

from service.client import (
    ClientError,
    KeyRefusedError,
    NotFoundError,
    ProblemError,
    UnansweredError,
)
from service.client.event_stream import EVENTS
from tests.client.fake_service import FakeTime, both_kinds, client_of, problem

pytestmark = both_kinds
SESSION = {"session": "s", "model": "verse", "version": "1", "step": 3}
OPEN = ("open", 3, {"session": "s", "step": 3, "replay": 8})


def event(name, step=None, data=None):
    lines = [f"event: {name}", f"data: {json.dumps(data)}", *([f"id: {step}"] if step else [])]
    return "\n".join(lines) + "\n\n"


def stream_of(*events):
    return ": ping\n\n" + "".join(event(*each) for each in events)


class FakeEvents:
    """Answers each request with a body of events, a response, or an error."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    def handle(self, request):
        self.requests.append(request)
        if request.method == "POST" and request.url.path == "/v1/sessions":
            return httpx.Response(201, json=SESSION)
        answer = self.answers.pop(0) if self.answers else httpx.ConnectError("cut")
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, str):
            return httpx.Response(200, text=answer, headers={"content-type": EVENTS})
        return answer

    async def handle_async(self, request):
        return self.handle(request)


async def all_of(kind, iterator, into=None):
    found = [] if into is None else into
    if kind == "sync":
        for each in iterator:
            found.append(each)
    else:
        async for each in iterator:
            found.append(each)
    return found


async def opened(kind, service, clock=None):
    session = client_of(kind, service, clock or FakeTime()).open("verse", session="s")
    return session if kind == "sync" else await session


async def test_events_continue_after_a_cut_from_the_last_one_received(kind):
    service = FakeEvents(
        stream_of(OPEN, ("step", 4, {"step": 4})),
        httpx.ReadError("cut"),
        problem(503, "draining"),
        stream_of(
            OPEN, ("gap", 6, {"from_step": 4, "to_step": 6}), ("end", None, {"reason": "final"})
        ),
    )
    events = client_of(kind, service, FakeTime()).events("s")
    found = await all_of(kind, events)
    assert [(each.name, each.step) for each in found] == [
        ("open", 3), ("step", 4), ("gap", 6), ("end", None),
    ]  # fmt: skip
    assert found[1].data == {"step": 4}
    ids = [request.headers.get("last-event-id") for request in service.requests]
    assert ids == [None, "4", "4", "4"]
    assert {request.headers["accept"] for request in service.requests} == {EVENTS}


async def test_events_can_start_after_a_step(kind):
    service = FakeEvents(stream_of(OPEN, ("end", None, {"reason": "deleted"})))
    await all_of(kind, client_of(kind, service, FakeTime()).events("s", after=7))
    assert service.requests[0].headers["last-event-id"] == "7"


async def test_events_in_any_chunks_are_the_same_events(kind):
    whole = stream_of(OPEN, ("step", 4, {"text": "ü"}), ("end", None, {"reason": "final"})).encode()
    for separator in (b"\n", b"\r\n"):
        data = whole.replace(b"\n", separator)
        chunks = [data[index : index + 1] for index in range(len(data))]

        def once(chunks=chunks):
            yield from chunks

        async def later(chunks=chunks):
            for chunk in chunks:
                yield chunk

        content = once() if kind == "sync" else later()
        answer = httpx.Response(200, content=content, headers={"content-type": EVENTS})
        events = client_of(kind, FakeEvents(answer), FakeTime()).events("s")
        found = await all_of(kind, events)
        assert [each.name for each in found] == ["open", "step", "end"]
        assert found[1].data == {"text": "ü"}


async def test_an_error_that_ends_the_events_is_raised(kind):
    revoked = {"type": "urn:carry:unauthenticated", "status": 401, "detail": "revoked"}
    for answer, error in [
        (problem(404, "session-not-found"), NotFoundError),
        (stream_of(OPEN, ("error", None, revoked)), KeyRefusedError),
        (httpx.Response(200, json={}), ClientError),
    ]:
        with pytest.raises(error):
            await all_of(kind, client_of(kind, FakeEvents(answer), FakeTime()).events("s"))
    clock = FakeTime()
    with pytest.raises(UnansweredError):
        await all_of(kind, client_of(kind, FakeEvents(stream_of(OPEN)), clock).events("s"))
    assert 40 < clock.now <= 60


TEXTS = [("text", None, {"index": 0, "text": each}) for each in "abcd"]
DONE = ("done", None, {"session": "s", "step": 4, "text": "abcd", "prediction": {"next": "e"}})


async def test_text_is_delivered_while_it_is_written_and_then_counts_as_a_step(kind):
    service = FakeEvents(stream_of(*TEXTS, DONE))
    session = await opened(kind, service)
    pieces = session.generate_stream(text="x", max_tokens=4)
    assert await all_of(kind, pieces) == ["a", "b", "c", "d"]
    assert (session.count, session.prediction) == (4, {"next": "e"})
    assert json.loads(service.requests[-1].content) == {"step": 3, "text": "x", "max_tokens": 4}


async def test_text_that_was_cut_continues_where_it_stopped(kind):
    service = FakeEvents(
        stream_of(*TEXTS[:2]),
        httpx.ReadError("cut"),
        stream_of(*TEXTS[:3], ("error", None, {"status": 503, "type": "urn:carry:draining"})),
        stream_of(("text", None, {"index": 0, "text": "abcd"}), DONE),
    )
    session = await opened(kind, service)
    assert await all_of(kind, session.generate_stream()) == ["a", "b", "c", "d"]
    assert len({request.content for request in service.requests[1:]}) == 1
    assert session.count == 4


async def test_text_that_does_not_continue_the_delivered_part_is_an_error(kind):
    other = ("text", None, {"index": 0, "text": "x"})
    service = FakeEvents(stream_of(*TEXTS[:2], ("restart", None, {"index": 0}), other))
    session = await opened(kind, service)
    with pytest.raises(ClientError, match="does not continue the part received before"):
        await all_of(kind, session.generate_stream())
    assert session.count == 3


async def test_text_that_restarts_the_same_is_delivered_once(kind):
    service = FakeEvents(stream_of(*TEXTS[:2], ("restart", None, {"index": 0}), *TEXTS, DONE))
    session = await opened(kind, service)
    assert await all_of(kind, session.generate_stream()) == ["a", "b", "c", "d"]


async def test_text_that_fails_raises_the_problem_and_does_not_count(kind):
    failed = {"status": 500, "type": "urn:carry:model-failed", "detail": "why"}
    service = FakeEvents(
        stream_of(*TEXTS[:1], ("error", None, failed)), problem(422, "invalid-input")
    )
    session = await opened(kind, service)
    pieces = []
    with pytest.raises(ProblemError, match="model-failed"):
        await all_of(kind, session.generate_stream(), pieces)
    assert (pieces, session.count) == (["a"], 3)
    with pytest.raises(ProblemError, match="invalid-input"):
        await all_of(kind, session.generate_stream())


async def test_a_text_stopped_early_is_settled_before_the_next_operation(kind):
    service = FakeEvents(stream_of(*TEXTS, DONE))
    session = await opened(kind, service)
    pieces = session.generate_stream(text="x")
    if kind == "sync":
        assert next(pieces) == "a"
        pieces.close()
    else:
        assert await anext(pieces) == "a"
        await pieces.aclose()
    assert session.count == 3
    done = httpx.Response(200, json=DONE[2], headers={"Idempotent-Replayed": "true"})
    stepped = {"session": "s", "step": 5, "prediction": {"next": "f"}}
    service.answers = [done, httpx.Response(200, json=stepped)]
    reply = session.step("y")
    reply = reply if kind == "sync" else await reply
    assert [json.loads(request.content)["step"] for request in service.requests[-2:]] == [3, 4]
    assert session.count == 5


async def test_readiness_is_requested_once(kind):
    for answer, is_ready in [
        (httpx.Response(200, json={"status": "ready"}), True),
        (problem(503, "not-ready"), False),
        (httpx.ConnectError("[Errno 111] Connection refused"), False),
        (httpx.ReadTimeout("silent"), False),
    ]:
        service = FakeEvents(answer)
        ready = client_of(kind, service, FakeTime()).ready()
        assert (ready if kind == "sync" else await ready) is is_ready
        assert [request.url.path for request in service.requests] == ["/readyz"]


async def test_models_are_listed(kind):
    served = [{"name": "load", "task": "forecast", "versions": ["1"]}]
    service = FakeEvents(httpx.ConnectError("cut"), httpx.Response(200, json={"models": served}))
    models = client_of(kind, service, FakeTime()).models()
    assert (models if kind == "sync" else await models) == served


async def test_representations_never_show_the_key(kind):
    client = client_of(kind, FakeEvents(), FakeTime(), key="secret")
    session = await opened(kind, FakeEvents())
    prefix = "" if kind == "sync" else "Async"
    assert repr(client) == f"{prefix}Client('http://carry', key='…')"
    assert repr(session) == f"<{prefix}Session 's' model='verse' version='1' step=3>"
    shown = f"<{prefix}SessionStream 's' model='verse' version='1' step=3 unanswered=0>"
    assert repr(session.stream()) == shown
