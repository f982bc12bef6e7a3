"""Requests that share a call of the graph, in their traces."""

import asyncio

from tests.api.support import listening, until
from tests.api.test_protocol import OPEN
from tests.e2e.collector import collecting
from tests.engine.support import held_graphs

STEP = {"observations": [[1, 2]]}


async def test_a_batch_is_linked_to_every_request_in_it(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    with collecting() as (collector, endpoint):
        async with (
            listening(otlp_endpoint=endpoint, traces_ratio=1) as client,
            held_graphs(monkeypatch) as held,
        ):
            for name in "abcd":
                (
                    await client.post("/v1/sessions", json=OPEN | {"session": name})
                ).raise_for_status()
            [worker] = [
                worker
                for worker in client.app.context.engine.workers
                if (worker.model.name, worker.model.version) == ("load", "1")
            ]

            def step(name):
                return asyncio.create_task(client.post(f"/v1/sessions/{name}/steps", json=STEP))

            held.hold(worker.model)
            asked = [step("a")]
            await held.has_entered()
            asked += [step(name) for name in "bcd"]
            await until(lambda: worker._num_grouped == 3)
            held.let_go()
            answers = await asyncio.gather(*asked)
        spans = collector.wait_for(
            lambda spans: sum("carry.rows" in span.attributes for span in spans) >= 2
        )
    sent = [answer.headers["traceresponse"].split("-") for answer in answers]
    asked = {(trace, span) for _, trace, span, _ in sent}
    batches = [span for span in spans if span.name == "batch" and span.links & asked]
    assert sorted(len(batch.links) for batch in batches) == [1, 3]
    assert set.union(*(batch.links for batch in batches)) == asked
    for batch in batches:
        assert batch.attributes["carry.rows"] == len(batch.links)
        graphs = [span for span in spans if span.name == "graph" and batch.own_link in span.links]
        assert {span.trace_id for span in graphs} == {trace for trace, _ in batch.links}
