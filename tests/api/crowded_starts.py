"""Many clients that start one sequence of `/v2` at the same moment, and what must come of it."""

import asyncio
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

from tests.api.test_open_inference import START_S
from tests.fakes.bundles import DAY_S

KINDS = list(product(("phase", "load"), ("last", "all"), (1, 3), (False, True), (None, 0)))
"""Model, answers wanted, rows, whether the start is an end as well, `sequence_step`."""
PROBE = np.full((1, 1, 2), 0.5, np.float32)
TEXTS = ("a wonderful", "a waste of time", "정말 최고", "don't mi")
TEXT_END = "ss it!!"


@dataclass
class Start:
    """One client's request; each client has rows of its own."""

    model: str
    emit: str
    rows: np.ndarray
    ends: bool
    step: int | None

    def body(self, sequence_id):
        told = {
            "sequence_id": sequence_id,
            "sequence_start": True,
            "sequence_end": self.ends,
            "emit": self.emit,
        }
        if self.step is not None:
            told["sequence_step"] = self.step
        return body_of(self.rows, told, START_S)


def body_of(rows, parameters, start_s=None):
    inputs = [{"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.tolist()}]
    if start_s is not None:
        times = [[start_s + DAY_S * day for day in range(rows.shape[1])]]
        shape = list(rows.shape[:2])
        inputs.append({"name": "time", "shape": shape, "datatype": "INT64", "data": times})
    return {"inputs": inputs, "parameters": parameters}


async def infer(client, model, body):
    inputs = [each for each in body["inputs"] if model == "load" or each["name"] != "time"]
    return await client.post(f"/v2/models/{model}/infer", json=body | {"inputs": inputs})


def first_output(answer):
    assert answer.status_code == 200, answer.text
    tensor = answer.json()["outputs"][0]
    return np.reshape(tensor["data"], tensor["shape"])


async def alone(client, model, emit, rows):
    """What rows are answered without a sequence."""
    return first_output(await infer(client, model, body_of(rows, {"emit": emit}, START_S)))


async def check_round(clients, seed, num_clients=12):
    """Starts of one sequence, all at once, by clients of all replicas.

    Each is answered as if it were alone, and the sequence is that of one of them, or over.
    """
    rng = np.random.default_rng(seed)
    model = ("phase", "load")[seed % 2]
    kinds = [kind for kind in KINDS if kind[0] == model]
    starts = [
        Start(model, emit, rng.normal(size=(1, num_rows, 2)).astype(np.float32), ends, step)
        for _, emit, num_rows, ends, step in rng.permutation(np.array(kinds, object))[:num_clients]
    ]
    sequence_id = seed + 1
    answers = await asyncio.gather(
        *(
            infer(clients[place % len(clients)], model, start.body(sequence_id))
            for place, start in enumerate(starts)
        )
    )
    calm = clients[0]
    for start, answer in zip(starts, answers, strict=True):
        expected = await alone(calm, model, start.emit, start.rows)
        assert first_output(answer) == pytest.approx(expected, abs=1e-5)
        assert answer.json()["parameters"]["sequence_step"] == start.rows.shape[1]
    probed = await infer(calm, model, body_of(PROBE, {"sequence_id": sequence_id, "emit": "last"}))
    if probed.status_code != 200:
        assert any(start.ends for start in starts), probed.text
        assert probed.status_code == 400, probed.text
        assert "START flag" in probed.json()["error"]
        return
    owners = [start for start in starts if not start.ends]
    wholes = [
        await alone(calm, model, "last", np.concatenate([start.rows, PROBE], axis=1))
        for start in owners
    ]
    own = first_output(probed)
    of = [
        start
        for start, whole in zip(owners, wholes, strict=True)
        if np.allclose(whole, own, atol=1e-5)
    ]
    assert len(of) == 1, "the state is of none of the starts, or not told apart"
    assert probed.json()["parameters"]["sequence_step"] == of[0].rows.shape[1] + 1


async def check_text_round(clients, seed):
    """The same for texts, some of which end at once."""
    sequence_id = 1_000_000 + seed

    def body(text, **told):
        data = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
        return {"inputs": [data], "parameters": told}

    flags = {"sequence_id": sequence_id, "sequence_start": True}
    asked = [(text, ends) for text in TEXTS for ends in (False, True, False)]
    order = np.random.default_rng(seed).permutation(len(asked))
    answers = await asyncio.gather(
        *(
            infer(
                clients[place % len(clients)],
                "mood",
                body(asked[at][0], sequence_end=asked[at][1], **flags),
            )
            for place, at in enumerate(order)
        )
    )
    calm = clients[0]
    for at, answer in zip(order, answers, strict=True):
        expected = first_output(await infer(calm, "mood", body(asked[at][0])))
        assert first_output(answer) == pytest.approx(expected, abs=1e-5)
    probed = await infer(calm, "mood", body(TEXT_END, sequence_id=sequence_id))
    if probed.status_code == 200:
        wholes = [first_output(await infer(calm, "mood", body(text + TEXT_END))) for text in TEXTS]
        own = first_output(probed)
        assert sum(np.allclose(whole, own, atol=1e-5) for whole in wholes) == 1
    else:
        assert "START flag" in probed.json()["error"]
