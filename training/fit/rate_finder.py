"""A learning rate to start from: Lightning's range test (Smith, 2017), on a recipe's own batches.

The rate rises exponentially from step to step. The loss falls, then rises when steps become too
large; suggested is the rate at which it falls fastest.

The losses are recorded here: Lightning's own smoothing starts from half of the first loss, and its
suggestion from the slope between two neighbouring steps, which on real batches is noise.
"""

import math
import tempfile
from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.tuner.tuning import Tuner
from torch import Tensor

from training.errors import RunError
from training.fit.lightning_fit import LightningFit
from training.fit.trainer import quieten_lightning
from training.tasks.base import Task

_SMOOTHED_SHARE = 0.2
"""Of all steps: over so many the loss is averaged."""


@dataclass(frozen=True, slots=True)
class RateSearch:
    """Rates tried and the smoothed loss after each, and the rate to start from."""

    rates: np.ndarray
    losses: np.ndarray
    suggestion: float


def find_rate(task: Task, num_steps: int = 100) -> RateSearch:
    """Try rates from 1e-6 to 1 on the training rows. No file is written.

    Raises:
        RunError: the loss never fell, or the recipe has too few batches to say.
    """
    quieten_lightning()
    config = task.recipe.fit
    pl.seed_everything(task.recipe.seed, workers=True, verbose=False)
    batches = task.train_batches(with_validation=False)
    # Warm-up would blur which rate made which loss; windows are no matter of the rate.
    changes = {"warmup_steps": 0, "schedule": "constant", "window_size": None}
    config = config.model_copy(update=changes)
    module = _Recording(task, task.network(), config, len(batches))
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            max_epochs=1 + num_steps // max(1, len(batches)),
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        found = Tuner(trainer).lr_find(
            module, batches, min_lr=1e-6, max_lr=1.0, num_training=num_steps
        )
    assert found is not None
    losses = np.array(module.losses[: len(found.results["lr"])])
    rates = np.array(found.results["lr"])[: len(losses)]
    is_finite = np.isfinite(losses)
    end = len(losses) if is_finite.all() else int(np.argmin(is_finite))
    smoothed = smooth(losses[:end])
    suggestion = suggest(rates[:end], smoothed)
    if suggestion is None:
        raise RunError(
            f"no learning rate found in {num_steps} steps: the loss never fell; look at the data,"
            " or raise --steps"
        )
    return RateSearch(rates[:end], smoothed, suggestion)


def suggest(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """The rate of the steepest fall before the least loss; None if the loss never falls."""
    lowest = int(np.argmin(losses)) if len(losses) else 0
    if lowest == 0:
        return None
    return float(rates[int(np.argmin(np.gradient(losses)[: lowest + 1]))])


def smooth(losses: np.ndarray) -> np.ndarray:
    """Each loss becomes a mean of its neighbours, the nearer the more."""
    half = max(1, math.ceil(_SMOOTHED_SHARE * len(losses) / 2))
    weights = np.hanning(2 * half + 3)[1:-1]
    padded = np.pad(losses, half, mode="edge")
    return np.convolve(padded, weights / weights.sum(), mode="valid")


class _Recording(LightningFit):
    """Keeps every loss, and lets one that is not finite pass: at some rate it must come."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]  # those of LightningFit
        self.losses: list[float] = []

    def _note_loss(self, loss: Tensor) -> None:
        self.losses.append(loss.item())
