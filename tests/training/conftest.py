import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from training.config import Recipe, parse_recipe
from training.tasks.forecast.task import ForecastTask
from training.tasks.registry import make_task

RECIPES = Path(__file__).parents[2] / "training" / "recipes"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def transit_fields() -> dict[str, Any]:
    """The committed recipe, small enough to train in seconds."""
    fields = tomllib.loads((RECIPES / "transit-ridership.toml").read_text())
    return shrink(fields)


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    fields = tomllib.loads((RECIPES / "transit-ridership.toml").read_text())
    return parse_recipe(shrink(fields), "tiny")


@pytest.fixture(scope="session")
def tiny_task(tiny_recipe: Recipe) -> ForecastTask:
    task = make_task(tiny_recipe, None)
    assert isinstance(task, ForecastTask)
    return task


def shrink(fields: dict[str, Any]) -> dict[str, Any]:
    fields = copy.deepcopy(fields)
    fields["task"] |= {"window": 21, "decoder_size": 8, "train_steps": 40, "stride": 400}
    fields["cell"] |= {"hidden_size": 8}
    fields["fit"] |= {"max_epochs": 1}
    return fields
