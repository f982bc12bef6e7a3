"""The forecaster as a stream: causal, indifferent to cuts and padding, and never poisoned."""

import copy

import pytest
import torch
from torch import Tensor

from training.tasks.forecast.calendar import holiday_table
from training.tasks.forecast.network import ForecastNetwork
from training.tasks.forecast.task import ForecastTask


@pytest.fixture(scope="module")
def network(tiny_task: ForecastTask) -> ForecastNetwork:
    torch.manual_seed(6)
    network = tiny_task.network().eval()
    for parameter in network.parameters():  # so that nothing is near zero by initialisation
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.fixture(scope="module")
def rows(tiny_task: ForecastTask) -> tuple[Tensor, Tensor]:
    inputs = tiny_task.example_inputs(2, 90)
    return torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["time"])


def run(network: ForecastNetwork, x: Tensor, time: Tensor, state: Tensor | None = None):
    if state is None:
        state = torch.zeros(len(x), network.state_size)
    with torch.no_grad():
        return network(x, time, torch.full((len(x),), x.shape[1]), state)


def test_future_rows_never_change_an_earlier_forecast(network, rows) -> None:
    x, time = rows
    changed = x.clone()
    changed[:, 60:] = 1e3
    before, after = run(network, x, time), run(network, changed, time)
    torch.testing.assert_close(before[1][:, :60], after[1][:, :60], rtol=0, atol=0)
    assert not torch.allclose(before[1][:, 60:], after[1][:, 60:])


def test_any_cut_gives_the_same_forecasts_and_state(network, rows) -> None:
    x, time = rows
    _, whole, whole_state = run(network, x, time)
    state, parts, start = None, [], 0
    for size in (1, 1, 20, 3, 50, 15):
        part = slice(start, start + size)
        _, quantiles, state = run(network, x[:, part], time[:, part], state)
        parts.append(quantiles)
        start += size
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state, whole_state, rtol=1e-4, atol=1e-4)


def test_what_lies_past_a_rows_length_is_never_read(network, rows) -> None:
    x, time = rows
    length = torch.tensor([90, 30])
    filthy_x, filthy_time = x.clone(), time.clone()
    filthy_x[1, 30:], filthy_time[1, 30:] = 1e30, -(2**40)
    state = torch.zeros(2, network.state_size)
    with torch.no_grad():
        clean = network(x, time, length, state)
        filthy = network(filthy_x, filthy_time, length, state)
    torch.testing.assert_close(clean[2], filthy[2], rtol=0, atol=0)
    torch.testing.assert_close(clean[1][1, :30], filthy[1][1, :30], rtol=0, atol=0)


def test_a_stream_of_nothing_but_gaps_stays_finite(network, rows) -> None:
    x, time = rows
    mean, quantiles, state = run(network, torch.full_like(x, torch.nan), time)
    for value in (mean, quantiles, state):
        assert torch.isfinite(value).all()


def test_a_flat_series_is_not_divided_by_zero(network, rows) -> None:
    x, time = rows
    flat = torch.full_like(x, 7.0)
    mean, _, _ = run(network, flat, time)
    assert torch.isfinite(mean).all()
    assert (mean[:, -1] - 7).abs().max() < 7


def test_forecasts_follow_the_unit_of_the_target(network, rows) -> None:
    x, time = rows
    shifted = x.clone()
    shifted[..., 0] *= 1000
    _, quantiles, _ = run(network, x, time)
    _, larger, _ = run(network, shifted, time)
    torch.testing.assert_close(larger, 1000 * quantiles, rtol=1e-3, atol=1e-1)


def test_a_holiday_changes_the_forecast_of_its_own_day_only(network, tiny_task) -> None:
    inputs = tiny_task.example_inputs(1, 40)
    x, time = torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["time"])
    time = time - time[:, -1:] + 1_450_396_800  # so that the last row is 2015-12-18
    changed = copy.deepcopy(network)
    changed.calendar.holiday.weight.data[holiday_table("US").names.index("Christmas Day")] += 3

    before, after = run(network, x, time)[1][0, -1], run(changed, x, time)[1][0, -1]

    differs = (before != after).any(dim=-1)
    assert differs.nonzero().flatten().tolist() == [6]  # seven days ahead: the 25th


def test_a_last_weeks_holiday_weighs_less_than_an_ordinary_day(tiny_task) -> None:
    profile = tiny_task.network().profile
    z = torch.zeros(1, 1, 21)
    z[..., -7] = -3.0  # six days before the last: what the next day looks back to
    known, kinds = torch.ones_like(z), torch.zeros(1, 1, 21, dtype=torch.int64)
    holiday = kinds.clone()
    holiday[..., -7] = 1
    with torch.no_grad():
        level = profile(z, known, kinds)[1][0, 0, 0, 0]
        level_after_holiday = profile(z, known, holiday)[1][0, 0, 0, 0]
    assert level < level_after_holiday < 0
