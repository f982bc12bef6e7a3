import torch

from training.fit.averaging import average


def test_the_average_soon_forgets_where_it_started() -> None:
    averaged = torch.tensor([100.0])
    for step in range(1, 230):
        averaged = average(0.99, averaged, torch.tensor([1.0]), step)
    assert abs(averaged - 1) < 0.01


def test_the_average_follows_slowly_in_the_end() -> None:
    moved = average(0.99, torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor(10_000))
    torch.testing.assert_close(moved, torch.tensor([0.01]))
