"""Pipelined steps are applied once and answered in order, wherever the WebSocket breaks."""

import random

import pytest

from service.client import (
    ClientError,
    InvalidRequestError,
    KeyRefusedError,
    SteppedElsewhereError,
    StepsLostError,
    UnansweredError,
)
from service.client.retry import NoResponse, Request
from service.client.streaming.pipeline import Connect, Receive, Send
from tests.client.fake_service import FakeTime
from tests.client.fake_wire import FakeWire, piped, row_of


def send_all(wire, pipeline, count, start=0):
    for step in range(start, start + count):
        wire.run(pipeline.send([row_of(step)]))


def receive_all(wire, pipeline):
    replies = []
    while pipeline.num_unanswered:
        replies.append(wire.run(pipeline.receive()))
    return replies


def test_at_most_as_many_are_in_flight_as_the_session_keeps_replies():
    wire = FakeWire(ring_size=4)
    session, pipeline = piped(wire)
    send_all(wire, pipeline, 20)
    assert wire.most_in_flight == 4
    replies = receive_all(wire, pipeline)
    assert [reply.step for reply in replies] == list(range(1, 21))
    assert session.count == 20
    assert wire.num_connects == 1


@pytest.mark.parametrize("seed", range(200))
def test_after_any_failures_each_step_is_applied_once_and_answered_in_order(seed):
    chance = random.Random(seed)

    def faults(effect):
        if chance.random() < 0.75:
            return None
        kinds = ["cut", "lost"] + ([] if isinstance(effect, Request) else [503, 429])
        return chance.choice(kinds)

    wire = FakeWire(chance.choice((1, 2, 8)), faults)
    session, pipeline = piped(wire, budget_s=10_000)
    replies, num_rows, sent = [], 0, []
    for _ in range(30):
        rows = [row_of(num_rows + index) for index in range(chance.randint(1, 3))]
        num_rows += len(rows)
        wire.run(pipeline.send(rows))
        sent.append(num_rows)
        while pipeline.num_unanswered and chance.random() < 0.4:
            replies.append(wire.run(pipeline.receive()))
    replies += receive_all(wire, pipeline)
    assert wire.applied == [row_of(step) for step in range(num_rows)]
    assert [reply.step for reply in replies] == sent
    assert [reply.prediction["mean"] for reply in replies] == [row_of(step - 1) for step in sent]
    assert session.count == num_rows


@pytest.mark.parametrize("num_answered", [6, 8])
def test_lost_steps_are_sent_again_before_requests_without_a_reply(num_answered):
    wire = FakeWire(ring_size=4)
    session, pipeline = piped(wire)
    send_all(wire, pipeline, 8)
    for _ in range(num_answered):
        wire.run(pipeline.receive())
    wire.lose(5)
    send_all(wire, pipeline, 2, start=8)
    receive_all(wire, pipeline)
    assert wire.applied == [row_of(step) for step in range(10)]
    assert session.count == 10


def test_a_loss_of_steps_no_longer_kept_is_reported():
    wire = FakeWire()
    session, pipeline = piped(wire)
    send_all(wire, pipeline, 6)
    receive_all(wire, pipeline)
    session._sent.clear()
    wire.lose(3)
    send_all(wire, pipeline, 1, start=6)
    with pytest.raises(StepsLostError):
        receive_all(wire, pipeline)


def test_a_step_of_another_client_is_reported():
    wire = FakeWire()
    _, pipeline = piped(wire)
    send_all(wire, pipeline, 2)
    receive_all(wire, pipeline)
    wire.applied += [row_of(2), row_of(3)]
    send_all(wire, pipeline, 1, start=7)
    with pytest.raises(SteppedElsewhereError):
        receive_all(wire, pipeline)


def test_a_refusal_is_raised_in_place_of_its_reply_and_later_requests_are_dropped():
    wire = FakeWire(ring_size=8)
    session, pipeline = piped(wire)
    send_all(wire, pipeline, 2)
    wire.run(pipeline.send([[None]]))
    send_all(wire, pipeline, 3, start=3)
    assert [wire.run(pipeline.receive()).step for _ in range(2)] == [1, 2]
    with pytest.raises(InvalidRequestError):
        wire.run(pipeline.receive())
    assert (session.count, pipeline.num_unanswered) == (2, 0)
    with pytest.raises(ClientError, match="every request has its reply"):
        wire.run(pipeline.receive())
    assert wire.run(pipeline.step([row_of(2)])).step == 3
    assert wire.applied == [row_of(step) for step in range(3)]


def test_only_the_request_too_big_for_a_message_is_refused():
    wire = FakeWire(ring_size=8)

    def outcome_of(effect, outcome_of=wire.outcome_of):
        if isinstance(effect, Send) and any(len(each) > 1000 for each in effect.messages):
            wire._replies = None
            return None
        if isinstance(effect, Receive) and wire._replies is None:
            return NoResponse("too big", 1009)
        return outcome_of(effect)

    wire.outcome_of = outcome_of
    session, pipeline = piped(wire)
    send_all(wire, pipeline, 3)
    wire.run(pipeline.send([row_of(step) for step in range(3, 300)]))
    assert [wire.run(pipeline.receive()).step for _ in range(3)] == [1, 2, 3]
    with pytest.raises(InvalidRequestError, match="limit for a WebSocket message"):
        wire.run(pipeline.receive())
    assert session.count == 3
    assert wire.run(pipeline.step([row_of(3)])).step == 4


@pytest.mark.parametrize("which", [Connect, Receive])
def test_a_receive_whose_time_is_up_raises_and_can_be_repeated(which):
    is_down = False
    wire = FakeWire(faults=lambda effect: "cut" if is_down and isinstance(effect, which) else None)
    clock = FakeTime()
    session, pipeline = piped(wire, clock)
    send_all(wire, pipeline, 3)
    is_down = True
    wire._replies = None
    with pytest.raises(UnansweredError, match="cut"):
        receive_all(wire, pipeline)
    assert clock.now < 80
    is_down = False
    receive_all(wire, pipeline)
    assert session.count == 3
    assert wire.applied == [row_of(step) for step in range(3)]


def test_a_refused_key_is_raised_at_once():
    wire = FakeWire()
    _, pipeline = piped(wire)
    send_all(wire, pipeline, 1)
    wire._replies = None
    wire.faults = lambda effect: 401 if isinstance(effect, Connect) else None
    with pytest.raises(KeyRefusedError):
        receive_all(wire, pipeline)
    assert wire.num_connects == 2


@pytest.mark.parametrize("which", [Connect, Send, Receive])
def test_after_a_cancelled_flow_no_request_is_answered_twice(which):
    wire = FakeWire(ring_size=8)
    session, pipeline = piped(wire)
    send_all(wire, pipeline, 3)
    if which is Connect:
        wire._replies = None
        flow = pipeline.receive()
    else:
        flow = pipeline.send([row_of(3)]) if which is Send else pipeline.receive()
    outcome = None
    while not isinstance(effect := flow.send(outcome), which):
        outcome = wire.outcome_of(effect)
    wire.outcome_of(effect) if which is Send else None  # it arrived, but the flow does not know
    flow.close()
    replies = receive_all(wire, pipeline)
    assert wire.num_connects == (1 if which is Receive else 2)
    assert [reply.step for reply in replies] == list(range(1, len(replies) + 1))
    assert wire.applied == [row_of(step) for step in range(session.count)]


def test_a_step_of_unknown_length_is_answered_before_the_next_is_numbered():
    wire = FakeWire(ring_size=8)
    session, pipeline = piped(wire)
    step = wire._step
    wire._step = lambda body, fault=None: step(
        {"step": body["step"], "observations": body["tensors"]["x"]}, fault
    )
    for first in (0, 3):
        rows = [row_of(step) for step in range(first, first + 3)]
        wire.run(pipeline.send(None, tensors={"x": rows}))
    assert wire.most_in_flight == 1
    receive_all(wire, pipeline)
    assert session.count == 6


def test_requests_that_a_stream_left_without_a_reply_are_sent_before_the_next_one():
    wire = FakeWire(ring_size=8)
    session, pipeline = piped(wire)
    send_all(wire, pipeline, 4)
    wire.run(pipeline.receive())
    wire.applied.pop()  # the last of them never arrived
    wire._ring.popitem()
    session.abandon(pipeline.unanswered())
    reply = wire.run(session.step([row_of(4)]))
    assert reply.step == session.count == 5
    assert wire.applied == [row_of(step) for step in range(5)]
