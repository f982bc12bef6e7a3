import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.tasks.forecast.quantiles import QuantileHead, fit_widening, forecast_loss, pinball


@given(
    seed=st.integers(0, 2**31),
    scale=st.floats(0.01, 1000),
    levels=st.lists(st.sampled_from([0.05, 0.1, 0.25, 0.75, 0.9, 0.95]), unique=True),
)
def test_quantiles_never_cross_whatever_the_weights(
    seed: int, scale: float, levels: list[float]
) -> None:
    torch.manual_seed(seed)
    head = QuantileHead(5, sorted({*levels, 0.5}))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    _, quantiles = head(torch.randn(7, 3, 5) * scale)
    assert quantiles.shape == (7, 3, len(levels) + 1)
    assert (quantiles.diff(dim=-1) >= 0).all()


def test_pinball_is_least_at_the_quantile() -> None:
    draws = torch.from_numpy(np.random.default_rng(0).exponential(size=20_000))
    for level in (0.1, 0.5, 0.9):
        guesses = torch.quantile(draws, torch.tensor([level - 0.08, level, level + 0.08]).double())
        losses = [pinball(draws - guess, torch.tensor(level)).mean() for guess in guesses]
        assert min(losses) == losses[1]


def test_missing_truths_change_neither_loss_nor_gradient() -> None:
    quantiles = torch.randn(1, 4, 2, 3).sort(dim=-1).values.requires_grad_()
    mean, levels = quantiles[..., 1], torch.tensor([0.1, 0.5, 0.9])
    truth = torch.randn(1, 4, 2)
    truth[:, 2:] = torch.nan
    loss = forecast_loss(truth, mean, quantiles, levels, 0.1)
    seen = forecast_loss(truth[:, :2], mean[:, :2], quantiles[:, :2], levels, 0.1)
    torch.testing.assert_close(loss, seen)
    (gradient,) = torch.autograd.grad(loss, quantiles)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, 2:] == 0).all()


def test_widened_intervals_hold_their_share() -> None:
    torch.manual_seed(0)
    truth = torch.randn(5000) * 3
    truth[::7] = torch.nan
    quantiles = torch.tensor([-1.6, -0.7, 0.0, 0.7, 1.6]).expand(5000, 5)
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    factor = fit_widening(truth, quantiles, levels)
    torch.testing.assert_close(factor, torch.tensor(3.0), atol=0.15, rtol=0)
    known = truth[torch.isfinite(truth)]
    assert abs((known.abs() <= 1.6 * factor).float().mean() - 0.9) < 0.002
