"""The thin layer between a task and Lightning: steps, optimiser, schedule. No task knowledge."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from training.config import FitConfig
from training.errors import RunError
from training.tasks.base import Batch, StreamNetwork, Task


class LightningFit(pl.LightningModule):
    """Trains `network` by the losses of `task`."""

    def __init__(
        self, task: Task, network: StreamNetwork, config: FitConfig, num_steps: int
    ) -> None:
        super().__init__()
        self.network = network
        self._task = task
        self._config = config
        self._num_steps = num_steps

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        loss = self._task.loss(self.network, batch)
        if not torch.isfinite(loss):
            raise RunError(
                f"the loss became {loss.item()} at step {self.global_step}: lower"
                " fit.learning_rate or fit.gradient_clip, or look at the data"
            )
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        loss = self._task.validation_loss(self.network, batch)
        self.log("val_loss", loss, on_epoch=True, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own union is not exported
        config = self._config
        # Decay pulls on maps between features only; biases and scales have no reason to be small.
        matrices = [p for p in self.network.parameters() if p.ndim >= 2]
        others = [p for p in self.network.parameters() if p.ndim < 2]
        optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _rate(self, step: int) -> float:
        """Share of the learning rate: a linear start, then constant or a half cosine to 1 %."""
        warmup = min(1.0, (step + 1) / (self._config.warmup_steps + 1))
        if self._config.schedule == "constant":
            return warmup
        done = min(1.0, step / max(1, self._num_steps))
        return warmup * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
