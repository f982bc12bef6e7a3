"""Runs the phases of a fit: a search on the training rows, and perhaps a refit on all of them.

Rule 1: each phase starts from the recipe's seed, so the refit does not depend on the search's luck.
Rule 2: a finished phase leaves `result.json`; a resumed run takes it as it is.
Rule 3: the rows that the card reports on are seen by no phase.
Rule 4: with several devices the first process makes the run folder, writes results and exports.
        As its first phase begins, Lightning starts the same command again for every other device.
"""

import json
import logging
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
)
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from training.errors import RunError
from training.fit.averaging import weight_averaging
from training.fit.lightning_fit import LightningFit
from training.fit.run_folder import RunFolder
from training.tasks.base import StreamNetwork, Task

_PREFIX = "network."


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What may differ between machines without making another model."""

    devices: int = 1
    accelerator: str = "auto"
    resume: bool = False
    progress: bool = True


@dataclass(frozen=True, slots=True)
class _Phase:
    folder: Path
    num_epochs: int
    with_validation: bool
    """Train on the validation rows too; then nothing is left to stop early by."""


def fit(task: Task, run: RunFolder, options: FitOptions) -> bool:
    """Train, and leave `weights.pt` in the run folder. True on the process that goes on to export.

    Raises:
        RunError: the loss or a weight became infinite or NaN.
    """
    quieten_lightning()
    config = run.recipe.fit
    torch.set_num_threads(config.num_threads)
    search = final = _Phase(run.path / "search", config.max_epochs, with_validation=False)
    is_first = _run_phase(task, run, search, options)
    if config.refit_on_validation:
        best = _read_result(search)["num_epochs"]
        final = _Phase(run.path / "refit", best, with_validation=True)
        is_first = _run_phase(task, run, final, options)
    if is_first:
        network = _load_network(task, final)
        task.finish(network, _load_network(task, search))
        _refuse_infinite(network)
        torch.save(network.state_dict(), run.weights)
    return is_first


def is_started_by_another() -> bool:
    """True on a process that Lightning started beside the first one: its run folder is there."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


def _load_network(task: Task, phase: _Phase) -> StreamNetwork:
    file = phase.folder / "checkpoints" / _read_result(phase)["file"]
    weights: dict[str, Tensor] = torch.load(file, weights_only=True)["state_dict"]
    network = task.network()
    network.load_state_dict(
        {k.removeprefix(_PREFIX): v for k, v in weights.items() if k.startswith(_PREFIX)}
    )
    return network.eval()


def _refuse_infinite(network: StreamNetwork) -> None:
    """The last update may break weights when no loss is taken after it."""
    broken = [
        name for name, value in network.state_dict().items() if not torch.isfinite(value).all()
    ]
    if broken:
        raise RunError(
            f"the weights {', '.join(broken[:3])} hold values that are not finite after the last"
            " step: lower fit.learning_rate or fit.gradient_clip, or look at the data"
        )


def _run_phase(task: Task, run: RunFolder, phase: _Phase, options: FitOptions) -> bool:
    if (phase.folder / "result.json").exists():
        return True
    config = run.recipe.fit
    pl.seed_everything(run.recipe.seed, workers=True, verbose=False)
    batches = task.train_batches(with_validation=phase.with_validation)
    # Each device takes its share of every epoch's batches.
    num_steps = math.ceil(len(batches) / options.devices) * phase.num_epochs
    module = LightningFit(task, task.network(), config, num_steps)
    checkpoints = phase.folder / "checkpoints"
    best = ModelCheckpoint(
        checkpoints,
        filename="best" if not phase.with_validation else "final",
        monitor=None if phase.with_validation else "val_loss",
        save_last=True,
        enable_version_counter=False,
    )
    callbacks: list[Callback] = [best]
    if config.averaging_decay is not None:
        callbacks.append(weight_averaging(config.averaging_decay))
    if config.patience is not None and not phase.with_validation:
        callbacks.append(EarlyStopping("val_loss", patience=config.patience))
    if options.progress:
        callbacks.append(RichProgressBar())
    trainer = pl.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        max_epochs=phase.num_epochs,
        deterministic="warn",
        logger=CSVLogger(phase.folder, name="logs"),
        callbacks=callbacks,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=options.progress,
        enable_model_summary=False,
        limit_val_batches=0 if phase.with_validation else None,
    )
    last = checkpoints / "last.ckpt"
    trainer.fit(
        module,
        batches,
        None if phase.with_validation else task.validation_batches(),
        ckpt_path=str(last) if options.resume and last.exists() else None,
        weights_only=True,
    )
    if trainer.is_global_zero:
        _write_result(phase, best)
    trainer.strategy.barrier()  # every process reads the result of the search
    return trainer.is_global_zero


def _write_result(phase: _Phase, best: ModelCheckpoint) -> None:
    file = Path(best.best_model_path).name
    checkpoint = torch.load(phase.folder / "checkpoints" / file, weights_only=True)
    result = {
        "file": file,
        "num_epochs": int(checkpoint["epoch"]) + 1,
        "val_loss": None if best.best_model_score is None else float(best.best_model_score),
    }
    (phase.folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")


def _read_result(phase: _Phase) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((phase.folder / "result.json").read_text())
    return result


def quieten_lightning() -> None:
    """Its hints about hardware and worker counts would bury the figures that matter."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_utilities")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
