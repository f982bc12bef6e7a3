"""The task of tagging: every row of a series gets a label, as soon as it is read.

    rows: |------ training ------|-- validation --|-- held out --|

The labels are the kinds of day, which the dates tell and the network must tell from the values
alone: it is fed no times. The held-out tail is read by `evaluate` only.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from service.contract.manifest import DataSource, TagSpec
from service.contract.tensors import InputSpec, OutputSpec
from training.config import Recipe
from training.data.dataset import find_dataset
from training.data.series import SeriesDataset
from training.data.sets.day_kinds import DAY_KINDS, day_kinds
from training.errors import DataError, RecipeError
from training.evaluate.report import Evaluation
from training.evaluate.served_model import ServedModel
from training.evaluate.tagging import TaggedRows, evaluate_tagger
from training.tasks.base import (
    Arrays,
    Batch,
    GraphParts,
    ManifestParts,
    StreamNetwork,
    Task,
)
from training.tasks.stack_network import EveryStepLoss
from training.tasks.tag.network import TagNetwork
from training.tasks.tag.options import TagOptions

_EXAMPLE_SEED = 20


class TagTask(Task):
    """A label for every day of one series, bound to a recipe and its table."""

    Options = TagOptions

    def __init__(self, recipe: Recipe, options: TagOptions, data_path: str | None) -> None:
        super().__init__(recipe, options, data_path)
        dataset = find_dataset(recipe.data.source)
        if not isinstance(dataset, SeriesDataset):
            raise RecipeError(
                f"data.source is {recipe.data.source!r}, which is not a series; task 'tag' needs"
                " one, such as 'chicago'"
            )
        self.refuse_refit()
        path = dataset.locate(data_path)
        first, *others = options.columns
        series = dataset.load(path, first, others, options.frequency_s)
        self.options = options
        self.rows = TaggedRows(series.values, day_kinds(series.time_s, options.holidays), DAY_KINDS)
        self._columns = tuple(c.model_copy(update={"role": "past"}) for c in series.columns)
        self._source = dataset.source(path, len(series.values))
        count = len(series.values)
        self.held_out_start = count - int(count * options.held_out_share)
        self.validation_start = self.held_out_start - int(count * options.validation_share)
        if self.validation_start < options.sequence_steps:
            raise DataError(
                f"{count} rows are too few: task.sequence_steps is {options.sequence_steps}, and"
                f" this split leaves {self.validation_start} rows to train on"
            )

    def network(self) -> TagNetwork:
        values = self.rows.values[: self.validation_start].astype(np.float64)
        empty = [
            column.name
            for column, cells in zip(self._columns, values.T, strict=True)
            if not np.isfinite(cells).any()
        ]
        if empty:
            raise DataError(f"columns {empty} hold no value in the training rows: leave them out")
        center = torch.from_numpy(np.nanmean(values, axis=0).astype(np.float32))
        spread = np.maximum(np.nanstd(values, axis=0), 1e-6).astype(np.float32)
        options = self.options
        return TagNetwork(
            self.recipe.cell, center, torch.from_numpy(spread), len(DAY_KINDS), options.dropout
        )

    def train_batches(self, *, with_validation: bool) -> DataLoader[Any]:
        assert not with_validation  # refused above
        options = self.options
        known = self.rows.take(range(self.validation_start))
        stretches = Stretches(known, options.sequence_steps, options.stride)
        return DataLoader(stretches, batch_size=self.recipe.fit.batch_size, shuffle=True)

    def validation_batches(self) -> DataLoader[Any]:
        rows = self.rows.take(range(self.validation_start, self.held_out_start))
        return DataLoader(Stretches(rows, len(rows.values), 1))

    def prepare(self, batch: Batch) -> Batch:
        """Hides a share of the cells."""
        x, labels = batch
        hidden = torch.rand(x.shape, device=x.device) < self.options.missing_share
        return x.masked_fill(hidden, float("nan")), labels

    def loss(self, network: StreamNetwork, batch: Batch) -> Tensor:
        return self.sequence_loss().part(network, self.prepare(batch), None)[0]

    def validation_loss(self, network: StreamNetwork, batch: Batch) -> Tensor:
        return self.sequence_loss().part(network, batch, None)[0]

    def sequence_loss(self) -> EveryStepLoss:
        return EveryStepLoss()

    def graph_parts(self) -> GraphParts:
        shape = ("batch", "time", len(self._columns))
        x = InputSpec(name="x", dtype="float32", shape=shape, role="x")
        answer = OutputSpec(
            name="probabilities",
            dtype="float32",
            shape=("batch", "time", len(DAY_KINDS)),
            role="probabilities",
        )
        recipe = self.recipe
        schema = f"{recipe.name}/{recipe.version}/{recipe.cell.kind}/tag-network/1"
        return GraphParts((x,), (answer,), schema)

    def example_inputs(self, num_rows: int, num_steps: int) -> Arrays:
        """Stretches of the rows before the held-out ones, a tenth of the cells missing.

        A stretch longer than they are goes round again.
        """
        rng = np.random.default_rng(_EXAMPLE_SEED)
        end = self.held_out_start
        starts = rng.integers(0, max(1, end - num_steps), size=num_rows)
        x = self.rows.values[(starts[:, None] + np.arange(num_steps)) % end]
        return {"x": np.where(rng.random(x.shape) < 0.1, np.float32(np.nan), x)}

    def manifest_parts(self) -> ManifestParts:
        licence = self._source.licence
        return ManifestParts(
            weights_licence="Apache-2.0, as the project" if licence == "MIT" else "not decided",
            weights_note=(
                "The data's MIT licence allows training, use and sale with its notice kept."
                if licence == "MIT"
                else f"The data are '{licence}': check its terms before you share these weights."
            ),
            tag=TagSpec(columns=self._columns),
            labels=DAY_KINDS,
        )

    def sources(self) -> tuple[DataSource, ...]:
        return (self._source,)

    def evaluate(self, model: ServedModel) -> Evaluation:
        return evaluate_tagger(model, self.rows, self.held_out_start, self.options.baseline_values)


class Stretches(TorchDataset[tuple[Tensor, Tensor]]):
    """Stretches `(x[T,F], labels[T])` of `num_steps` rows, `stride` rows apart; the newest too."""

    def __init__(self, rows: TaggedRows, num_steps: int, stride: int) -> None:
        self._x, self._labels = torch.from_numpy(rows.values), torch.from_numpy(rows.labels)
        self._num_steps = num_steps
        last = len(rows.values) - num_steps
        self._starts = sorted({*range(0, last + 1, stride), last})

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        part = slice(self._starts[index], self._starts[index] + self._num_steps)
        return self._x[part], self._labels[part]


TASK = TagTask
