"""A learning rate to start from: Lightning's range test (Smith, 2017), on a recipe's own batches.

The rate rises exponentially from step to step. The loss falls, then rises when steps become too
large; suggested is the rate at which it falls fastest.
"""

import tempfile
from dataclasses import dataclass

import pytorch_lightning as pl
from pytorch_lightning.tuner.tuning import Tuner

from training.errors import RunError
from training.fit.lightning_fit import LightningFit
from training.fit.trainer import quieten_lightning
from training.tasks.base import Task


@dataclass(frozen=True, slots=True)
class RateSearch:
    """Rates tried and the smoothed loss after each, and the rate to start from."""

    rates: list[float]
    losses: list[float]
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
    module = LightningFit(task, task.network(), config.model_copy(update=changes), len(batches))
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
    suggestion = None if found is None else found.suggestion()
    if found is None or suggestion is None:
        raise RunError(
            f"no learning rate found in {num_steps} steps: the loss never fell; look at the data,"
            " or raise --steps"
        )
    return RateSearch(found.results["lr"], found.results["loss"], suggestion)
