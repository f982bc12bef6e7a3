"""A graph with bytes changed or missing: imported, or refused in one line, whatever they were.

IMPORT_FUZZ_CASES sets how many are tried.
"""

import os

import numpy as np
import pytest

from tests.training.foreign.graphs import recurrent
from tests.training.foreign.importing import imported_or_refused

NUM_CASES = int(os.environ.get("IMPORT_FUZZ_CASES", "60"))
GOOD = recurrent("LSTM", with_length=True).SerializeToString()


@pytest.mark.parametrize("seed", range(NUM_CASES))
def test_a_damaged_graph_is_refused_or_still_one(seed, tmp_path):
    rng = np.random.default_rng(seed)
    data = bytearray(GOOD)
    for _ in range(int(rng.integers(1, 6))):
        place = int(rng.integers(len(data)))
        if rng.random() < 0.2:
            del data[place : place + int(rng.integers(1, 40))]
        else:
            data[place] = int(rng.integers(256))
    path = tmp_path / "graph.onnx"
    path.write_bytes(data)
    imported_or_refused(path, "--limit-s", "20", models=tmp_path / "models")
