"""Networks around a cell whose sessions do not start at zero: the start reaches every place."""

from typing import Any

import pytest
import torch

from tests.training.text_models import tiny_network
from training.cells.base import LOWEST
from training.config import parse_recipe
from training.tasks.forecast.task import ForecastTask
from training.tasks.registry import make_task


@pytest.fixture
def task(transit_fields: dict[str, Any]) -> ForecastTask:
    transit_fields["cell"] |= {"kind": "attention", "options": {"num_heads": 4}}
    task = make_task(parse_recipe(transit_fields, "tiny"), None)
    assert isinstance(task, ForecastTask)
    return task


def test_a_forecaster_starts_where_its_stack_does(task: ForecastTask) -> None:
    state = task.network().initial_state()
    window = 2 * 21
    assert not state[:window].any()
    assert (state[window : window + 4] == LOWEST).all()
    assert not state[window + 4 :].any()


def test_a_classifier_starts_where_its_stack_does() -> None:
    network = tiny_network("attention")
    state = network.initial_state()
    assert state.shape == (network.state_size,)
    assert (state[:2] == LOWEST).all()
    assert not state[2:].any()


def test_training_validation_and_calibration_start_there_too(
    task: ForecastTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = task.network().eval()
    starts = []
    scaled = type(network).scaled

    def spy(self, x, time, length, state):
        starts.append(state)
        return scaled(self, x, time, length, state)

    monkeypatch.setattr(type(network), "scaled", spy)
    batch = next(iter(task.train_batches(with_validation=False)))
    task.loss(network, batch)
    task.validation_loss(network, batch)
    task.finish(network, network)
    assert len(starts) == 3
    for state in starts:
        assert torch.equal(state, network.initial_state().expand(len(state), -1))
