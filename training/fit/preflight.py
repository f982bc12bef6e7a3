"""Finds what would end a fit before it begins: no run folder is made until all of it holds."""

import warnings

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.accelerators import AcceleratorRegistry

from training.errors import OptionError
from training.fit.trainer import FitOptions, quieten_lightning
from training.tasks.base import Task


def refuse_unfit(task: Task, options: FitOptions) -> None:
    """Look for the devices, read the data, and make a network that is thrown away.

    Raises:
        OptionError: this machine has not the accelerator or the number of devices.
        RecipeError: an unknown cell, or options of the task or the cell that do not fit together.
        DataError: the data are not what the recipe needs.
    """
    _refuse_devices(options)
    task.sources()
    task.network()
    if task.recipe.fit.window_size is not None:
        task.sequence_loss()
    task.example_inputs(num_rows=1, num_steps=2)  # what verification will ask of the data


def _refuse_devices(options: FitOptions) -> None:
    """Lightning's own words, which name what is wrong, behind the options that were given."""
    quieten_lightning()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pl.Trainer(
                accelerator=options.accelerator,
                devices=options.devices,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
    except (MisconfigurationException, ValueError, ImportError, RuntimeError) as error:
        found = [
            name
            for name in AcceleratorRegistry.available_accelerators()
            if AcceleratorRegistry[name]["accelerator"].is_available()
        ]
        raise OptionError(
            f"--accelerator {options.accelerator} --devices {options.devices}: expected devices of"
            f" this machine, which has {' and '.join(sorted(found))}"
            f" ({' '.join(str(error).split())}); pass --accelerator auto, or fewer --devices"
        ) from None
