"""A series may be in any unit: what is verified is verified in parts of its spread."""

from pathlib import Path

import numpy as np
import pytest
import torch

from training.config import parse_recipe
from training.errors import VerificationError
from training.export.bundle_writer import draft_bundle
from training.export.verify import verify
from training.fit.run_folder import RunFolder
from training.tasks.registry import make_task

NUM_DAYS = 400


@pytest.mark.parametrize("unit", [1e-5, 5e6])
def test_a_forecaster_is_verified_in_the_unit_of_its_series(
    tmp_path: Path, transit_fields, unit: float
) -> None:
    rng = np.random.default_rng(1)
    wave = np.sin(np.arange(NUM_DAYS) * 2 * np.pi / 7) + 0.3 * rng.normal(size=NUM_DAYS)
    days = np.datetime64("2019-01-01") + np.arange(NUM_DAYS)
    rows = [f"{day},{value!r}" for day, value in zip(days, (unit * wave).tolist(), strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["time,y", *rows]))
    transit_fields["data"] = {"source": "csv_series"}
    transit_fields["task"] |= {"target": "y", "covariates": []}
    recipe = parse_recipe(transit_fields, "tiny")
    task = make_task(recipe, str(tmp_path / "t.csv"))
    torch.manual_seed(1)
    network = task.network().eval()
    run = RunFolder.create(tmp_path / "runs", recipe, None, "")

    bundle = draft_bundle(task, network, run)
    scales = bundle.manifest.golden.scales
    assert scales == {"mean": scales["mean"], "quantiles": scales["mean"]}
    assert scales["mean"] == pytest.approx(unit * wave[: int(0.8 * NUM_DAYS)].std(), rel=1e-3)
    verify(bundle, network, task.example_inputs(1, 500))

    network.head.linear.bias.data += 0.01
    with pytest.raises(VerificationError, match=r"parity: '(mean|quantiles)' differs by"):
        verify(bundle, network, task.example_inputs(1, 500))
