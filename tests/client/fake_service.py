"""A service with one session, which loses or fails the requests that a test names."""

import inspect
import json

import httpx
import pytest

from service.client import AsyncClient, Client, Retries


class FakeTime:
    """A clock that only waits advance."""

    def __init__(self):
        self.now = 0.0
        self.waits = []

    def wait(self, seconds):
        self.waits.append(seconds)
        self.now += seconds

    async def wait_async(self, seconds):
        self.wait(seconds)


class FakeService:
    """Steps follow the service's rules; `outcomes` replace the outcomes of the next requests.

    An outcome is a response in place of the service's own, an error of the transport, "lost"
    (applied, but the response is lost) or "cut" (never arrived). `applied` holds the rows
    in the order of their steps.
    """

    def __init__(self):
        self.applied = []
        self.outcomes = []
        self.requests = []
        self.closed = False
        self._ring = None

    def lose(self, num_rows):
        """As a store that fails over."""
        del self.applied[len(self.applied) - num_rows :]
        self._ring = None

    def handle(self, request):
        self.requests.append((request.method, request.url.path, request.content))
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome == "cut":
            raise httpx.ConnectError("cut", request=request)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, httpx.Response):
            return outcome
        answer = self._answer(request)
        if outcome == "lost":
            raise httpx.ReadTimeout("lost", request=request)
        return answer

    async def handle_async(self, request):
        return self.handle(request)

    def _answer(self, request):
        what = request.url.path.rpartition("/")[2]
        if request.method == "DELETE":
            if self.closed:
                return problem(404, "session-not-found")
            self.closed = True
            return httpx.Response(204)
        body = json.loads(request.content)
        if what == "sessions":
            return self._opened(body["session"], body["model"])
        if what == "fork":
            return self._opened(body["session"], "load")
        return self._step(body, what == "preview")

    def _opened(self, session, model):
        body = {"session": session, "model": model, "version": "1", "step": len(self.applied)}
        return httpx.Response(201, json=body)

    def _step(self, body, is_preview):
        rows, step = body["observations"], body["step"]
        if self._ring is not None and self._ring[0] == step and not is_preview:
            if self._ring[1] == rows:
                return self._stepped(len(self.applied), {"Idempotent-Replayed": "true"})
            return problem(409, "digest-mismatch", expected_step=len(self.applied))
        if step != len(self.applied):
            code = "step-conflict" if step > len(self.applied) else "replay-expired"
            return problem(409, code, expected_step=len(self.applied))
        if is_preview:
            return self._stepped(step + len(rows))
        self._ring = (step, rows)
        self.applied += rows
        return self._stepped(len(self.applied))

    def _stepped(self, step, headers=None):
        answer = {"session": "s", "step": step, "prediction": {"mean": [float(step)]}}
        return httpx.Response(200, json=answer, headers=headers)


def problem(status, code, retry_after=None, **members):
    document = {"type": f"urn:carry:{code}", "title": "T", "status": status, "detail": "why"}
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return httpx.Response(status, json=document | members, headers=headers)


async def result_of(value):
    """The result of a call of either client."""
    return await value if inspect.isawaitable(value) else value


def client_of(kind, service, clock, url="http://carry", **options):
    """Each wait is half of its bound; each operation has a minute."""
    retries = Retries(clock=lambda: clock.now, dice=lambda low, high: (low + high) / 2)
    if kind == "sync":
        transport = httpx.MockTransport(service.handle)
        made = Client(url, retries=retries, transport=transport, sleep=clock.wait, **options)
    else:
        transport = httpx.MockTransport(service.handle_async)
        made = AsyncClient(
            url, retries=retries, transport=transport, sleep=clock.wait_async, **options
        )
    return made


both_kinds = pytest.mark.parametrize("kind", ["sync", "async"])
