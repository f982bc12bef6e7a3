"""The thin layer between a task and Lightning: steps, optimiser, schedule. No task knowledge."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from training.config import FitConfig
from training.errors import RunError
from training.fit.truncated import truncated_losses
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
        self.learning_rate = config.learning_rate
        """Under the name by which Lightning's rate finder sets it."""
        # Truncated BPTT updates the weights several times in one batch.
        self.automatic_optimization = config.window_size is None

    def training_step(self, batch: Batch, batch_index: int) -> Tensor | None:
        if self._config.window_size is not None:
            self._train_in_windows(batch, self._config.window_size)
            return None
        loss = self._task.loss(self.network, batch)
        self._note_loss(loss)
        return loss

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:  # noqa: ANN401 - Lightning's
        self._note_norm(self._clip(optimizer))

    def _clip(self, optimizer: Any) -> Tensor:  # noqa: ANN401 - Lightning's wrapper of it
        """Clip the whole gradient to the recipe's norm; the norm that it had."""
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        limit = self._config.gradient_clip
        self.clip_gradients(optimizer, gradient_clip_val=limit, gradient_clip_algorithm="norm")
        return norm

    def _train_in_windows(self, batch: Batch, window_size: int) -> None:
        optimizer: Any = self.optimizers()
        losses = truncated_losses(
            self._task.sequence_loss(),
            self.network,
            self._task.prepare(batch),
            window_size,
            self._config.shifting_size or window_size,
        )
        norms = []
        for loss in losses:
            self._note_loss(loss)
            optimizer.zero_grad()
            self.manual_backward(loss)
            norms.append(self._clip(optimizer))
            optimizer.step()
        self._note_norm(torch.stack(norms).max())
        schedule: Any = self.lr_schedulers()
        schedule.step()

    def _note_norm(self, norm: Tensor) -> None:
        """Norms before and after clipping; of the window with the largest, where there are some."""
        norms = {"grad_norm": norm, "grad_norm_clipped": norm.clamp(max=self._config.gradient_clip)}
        self.log_dict(norms, on_step=True, on_epoch=False)

    def _note_loss(self, loss: Tensor) -> None:
        self._refuse_infinite(loss, "the loss")
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True)

    def _refuse_infinite(self, loss: Tensor, what: str) -> None:
        if not torch.isfinite(loss):
            raise RunError(
                f"{what} became {loss.item()} at step {self.global_step}: lower"
                " fit.learning_rate or fit.gradient_clip, or look at the data"
            )

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        loss = self._task.validation_loss(self.network, batch)
        # Early stopping would end the training in silence, and the weights would be kept.
        self._refuse_infinite(loss, "the loss of the validation rows")
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
            lr=self.learning_rate,
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
