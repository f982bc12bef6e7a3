"""`/v2` for tasks beside forecasts and texts with a label: tagging, and writing."""

import numpy as np

from tests.api.support import serving, small_folder
from tests.api.test_open_inference import given, triton_client


async def test_a_tagger_labels_every_row_where_that_is_asked():
    x = np.random.default_rng(1).normal(size=(2, 4, 2)).astype(np.float32)
    async with triton_client(small_folder()) as call:
        every = await call("infer", "phase", [given("x", x, "FP32")], parameters={"emit": "all"})
        last = await call("infer", "phase", [given("x", x, "FP32")])
    async with serving() as plain:
        body = {"instances": [{"observations": rows.tolist()} for rows in x]}
        told = (await plain.post("/v1/models/phase/predict", json=body)).json()["predictions"]
    expected = [[list(row.values()) for row in each["probabilities"]] for each in told]
    np.testing.assert_allclose(every.as_numpy("probabilities"), expected, rtol=1e-5)
    np.testing.assert_allclose(last.as_numpy("probabilities")[:, 0], np.array(expected)[:, -1])


async def test_a_model_that_writes_says_what_it_expects_next_of_a_text_in_any_pieces():
    async with triton_client(small_folder()) as call:
        whole = await call("infer", "verse", [given("text", np.array([["ab c"]], object), "BYTES")])
        for place, piece in enumerate(("a", "b ", "c")):
            inputs = [given("text", np.array([[piece]], object), "BYTES")]
            flags = {"sequence_start": place == 0, "sequence_end": place == 2}
            last = await call("infer", "verse", inputs, sequence_id=9, **flags)
    logits = whole.as_numpy("logits")
    np.testing.assert_allclose(last.as_numpy("logits"), logits, atol=1e-5)
    async with serving() as plain:
        asked = {"instances": [{"prompt": "ab c", "max_tokens": 1, "temperature": 0}]}
        told = (await plain.post("/v1/models/verse/predict", json=asked)).json()["predictions"][0]
        characters = (await plain.get("/v1/models/verse")).json()["characters"]
    assert characters[int(logits[0].argmax())] == told["text"]
