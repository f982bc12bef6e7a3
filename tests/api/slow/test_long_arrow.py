"""An Arrow stream with more rows of one session than any queue of single steps would take."""

import numpy as np
import pyarrow as pa

from service.api.sessions.bulk import ARROW
from tests.api.support import serving
from tests.api.test_bulk import stream_of

OPEN = {"model": "load", "version": "1", "start": "2016-08-22"}
NUM_ROWS = 30_000


async def test_thirty_thousand_rows_of_one_session_come_to_what_one_request_comes_to(tmp_path):
    values = np.random.default_rng(0).normal(size=(NUM_ROWS, 2)).astype(np.float32)
    store = f"sqlite:///{tmp_path}/carry.db"
    async with serving(store=store, request_timeout_s=300) as client:
        for name in ("rows", "request"):
            body = OPEN | {"session": name}
            (await client.post("/v1/sessions", json=body)).raise_for_status()
        columns = {"session": ["rows"] * NUM_ROWS, "step": np.arange(NUM_ROWS)}
        data = stream_of(pa.table(columns | {"load": values[:, 0], "temp": values[:, 1]}))
        answer = await client.post("/v1/steps", content=data, headers={"Content-Type": ARROW})
        told = pa.ipc.open_stream(answer.content).read_all()
        assert set(told["status"].to_pylist()) == {200}
        assert told["step"].to_pylist() == list(range(1, NUM_ROWS + 1))
        body = {"step": 0, "observations": values.tolist(), "emit": "all"}
        whole = await client.post("/v1/sessions/request/steps", json=body)
        expected = [each["mean"] for each in whole.json()["predictions"]]
        np.testing.assert_allclose(told["mean"].to_pylist(), expected, atol=1e-4)
        for name in ("rows", "request"):
            assert (await client.get(f"/v1/sessions/{name}")).json()["step"] == NUM_ROWS
