"""A service with one session behind a WebSocket that fails where a test says so."""

import json

from service.client.retry import NoResponse, Request, Response, Retries
from service.client.session_state import SessionState
from service.client.streaming.pipeline import Close, Connect, Pipeline, Receive, Send
from tests.client.fake_service import FakeTime

PATH = "/v1/sessions/s/stream"


def row_of(step):
    return [float(step)]


class FakeWire:
    """Streams follow the service's rules; `faults` returns the fault of an effect, or None.

    "cut": the effect fails and does not arrive. "lost": it arrives, but its outcome is lost.
    A number: the status of an HTTP response, or of a problem in place of a reply. `applied` has
    the rows in order.
    """

    def __init__(self, ring_size=4, faults=lambda effect: None):
        self.ring_size = ring_size
        self.applied = []
        self.faults = faults
        self.num_connects = 0
        self.most_in_flight = 0
        self._ring = {}
        self._replies = None

    def lose(self, num_rows):
        """As a store that fails over."""
        del self.applied[len(self.applied) - num_rows :]
        self._ring.clear()
        self._replies = None

    def run(self, flow):
        """Run a flow to its end."""
        outcome = None
        while True:
            try:
                effect = flow.send(outcome)
            except StopIteration as done:
                return done.value
            outcome = self.outcome_of(effect)

    def outcome_of(self, effect):
        fault = None if isinstance(effect, Close) else self.faults(effect)
        if fault == "cut":
            self._replies = None
            return NoResponse("cut", 1006)
        outcome = self._arrived(effect, fault)
        if fault == "lost":
            self._replies = None
            return NoResponse("lost", 1006)
        return outcome

    def _arrived(self, effect, fault):
        if isinstance(effect, Request):
            answer = self._step(json.loads(effect.content))
            return Response(answer.get("status", 200), {}, json.dumps(answer).encode())
        if isinstance(effect, Connect):
            return self._connect(effect, fault)
        if isinstance(effect, Close):
            self._replies = None
            return None
        if self._replies is None:
            return NoResponse("not connected", 1006)
        if isinstance(effect, Send):
            self._replies += [self._step(json.loads(each), fault) for each in effect.messages]
            self.most_in_flight = max(self.most_in_flight, len(self._replies))
            return None
        assert isinstance(effect, Receive)
        if not self._replies:
            return NoResponse("no message", None)
        return json.dumps(self._replies.pop(0)).encode()

    def _connect(self, connect, fault):
        assert connect.path == PATH
        self.num_connects += 1
        if isinstance(fault, int):
            return Response(fault, {}, json.dumps(problem(fault, "unavailable")).encode())
        self._replies = []
        hello = {"session": "s", "step": len(self.applied), "replay": self.ring_size}
        return json.dumps(hello).encode()

    def _step(self, body, fault=None):
        if isinstance(fault, int):
            return problem(fault, "unavailable")
        step, rows = body["step"], body["observations"]
        if step in self._ring and self._ring[step][0] == rows:
            return self._ring[step][1] | {"replayed": True}
        if step != len(self.applied):
            code = "step-conflict" if step > len(self.applied) else "replay-expired"
            return problem(409, code, expected_step=len(self.applied))
        if any(value is None for row in rows for value in row):
            return problem(422, "invalid-input")
        self.applied += rows
        count = len(self.applied)
        reply = {"session": "s", "step": count, "prediction": {"mean": self.applied[-1]}}
        self._ring[step] = (rows, reply)
        while len(self._ring) > self.ring_size:
            del self._ring[next(iter(self._ring))]
        return reply


def problem(status, code, **members):
    return {"type": f"urn:carry:{code}", "status": status, "detail": "why"} | members


def piped(wire, clock=None, **options):
    """A new session and its connected pipeline."""
    clock = clock or FakeTime()
    retries = Retries(clock=lambda: clock.now, dice=lambda low, high: high, **options)
    opened = {"session": "s", "model": "load", "version": "1", "step": 0}
    session = SessionState(retries, 1 << 20, opened)
    pipeline = Pipeline(session)

    def outcome_of(effect, outcome_of=wire.outcome_of):
        clock.now += 0.1 + getattr(effect, "after_s", 0.0)
        return outcome_of(effect)

    wire.outcome_of = outcome_of
    wire.run(pipeline.begin())
    return session, pipeline
