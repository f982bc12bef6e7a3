"""The forecast task: one series, split by time, trained at every step, judged by rolling origin.

    rows: |---- training ----|-- validation --|------- test -------|

Validation decides when to stop; the refit adds its rows to training. Test rows are read by
`evaluate` only.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from service.contract.manifest import DataSource, ForecastSpec
from service.contract.tensors import InputSpec, OutputSpec
from training.config import Recipe
from training.data.dataset import find_dataset
from training.data.series import Series, SeriesDataset
from training.data.windows import Windows
from training.errors import DataError, RecipeError
from training.evaluate.forecasting import Split, evaluate_forecasts
from training.evaluate.report import Evaluation
from training.evaluate.served_model import ServedModel
from training.tasks.base import (
    Arrays,
    Batch,
    GraphParts,
    ManifestParts,
    SequenceLoss,
    StreamNetwork,
    Task,
)
from training.tasks.forecast.calendar import FIRST_YEAR, LAST_YEAR
from training.tasks.forecast.network import LEAST_SCALE, ForecastNetwork
from training.tasks.forecast.options import ForecastOptions
from training.tasks.forecast.quantiles import fit_widening, forecast_loss

_EXAMPLE_SEED = 20


class ForecastTask(Task):
    """Quantiles of one target, K rows ahead, from its own past, covariates and the calendar."""

    Options = ForecastOptions

    def __init__(self, recipe: Recipe, options: ForecastOptions, data_path: str | None) -> None:
        super().__init__(recipe, options, data_path)
        self.options = options
        dataset = find_dataset(recipe.data.source)
        if not isinstance(dataset, SeriesDataset):
            raise RecipeError(
                f"data.source is {recipe.data.source!r}, which is not a series; a forecast needs"
                " one, such as 'chicago'"
            )
        path = dataset.locate(data_path)
        self.series = dataset.load(path, options.target, options.covariates, options.frequency_s)
        self.split = _split(self.series, options)
        self._source = dataset.source(path, len(self.series.values))
        self._levels = torch.tensor(options.quantiles)

    def network(self) -> ForecastNetwork:
        rows = self.series.values[: self.split.validation_start, 1:]
        empty = [
            name
            for name, column in zip(self.options.covariates, rows.T, strict=True)
            if not np.isfinite(column).any()
        ]
        if empty:
            raise DataError(f"columns {empty} hold no value in the training rows: leave them out")
        rows = rows.astype(np.float64)  # in float32 the squares of large values overflow
        center = np.nanmean(rows, axis=0)
        spread = np.maximum(np.nanstd(rows, axis=0), 1e-6)
        return ForecastNetwork(
            self.options,
            self.recipe.cell,
            torch.from_numpy(center.astype(np.float32)),
            torch.from_numpy(spread.astype(np.float32)),
        )

    def train_batches(self, *, with_validation: bool) -> DataLoader[Any]:
        end = self.split.test_start if with_validation else self.split.validation_start
        options = self.options
        num_steps = options.window + options.train_steps
        windows = Windows(self.series, num_steps, options.stride, options.horizon, range(end))
        return DataLoader(windows, batch_size=self.recipe.fit.batch_size, shuffle=True)

    def validation_batches(self) -> DataLoader[Any]:
        """One sequence from the first row on: as a session lives, not as training cuts it."""
        end = self.split.test_start
        counted = range(self.split.validation_start, end)
        return DataLoader(Windows(self.series, end, end, self.options.horizon, counted))

    def loss(self, network: StreamNetwork, batch: Batch) -> Tensor:
        return self.sequence_loss().part(network, self.prepare(batch), None)[0]

    def prepare(self, batch: Batch) -> Batch:
        """Hides a share of the cells, and what lies ahead of a session's first rows."""
        x, time, truth = batch
        if self.options.missing_share:
            hidden = torch.rand(x.shape, device=x.device) < self.options.missing_share
            x = torch.where(hidden, torch.full_like(x, float("nan")), x)
        truth = truth.clone()
        truth[:, : self.options.min_context] = float("nan")
        return x, time, truth

    def validation_loss(self, network: StreamNetwork, batch: Batch) -> Tensor:
        return self.sequence_loss().part(network, batch, None)[0]

    def sequence_loss(self) -> "ForecastLoss":
        return ForecastLoss(self._levels, self.options.mean_weight)

    def finish(self, network: StreamNetwork, searched: StreamNetwork) -> None:
        """Widen the intervals by what the validation rows ask of a network that never saw them."""
        assert isinstance(network, ForecastNetwork)
        assert isinstance(searched, ForecastNetwork)
        [(x, time, truth)] = self.validation_batches()
        state = searched.initial_state().unsqueeze(0)
        with torch.no_grad():
            _, quantiles, location, scale, _ = searched.scaled(x, time, None, state)
        scaled_truth = (truth - location) / scale
        factor = fit_widening(scaled_truth.flatten(), quantiles.flatten(0, 2), self._levels)
        network.widening.copy_(factor)

    def graph_parts(self) -> GraphParts:
        options = self.options
        num_columns, num_levels = 1 + len(options.covariates), len(options.quantiles)
        quantiles = ("batch", "time", options.horizon, num_levels)
        return GraphParts(
            inputs=(
                InputSpec(
                    name="x", dtype="float32", shape=("batch", "time", num_columns), role="x"
                ),
                InputSpec(name="time", dtype="int64", shape=("batch", "time"), role="time"),
            ),
            outputs=(
                OutputSpec(name="mean", dtype="float32", shape=quantiles[:3], role="mean"),
                OutputSpec(name="quantiles", dtype="float32", shape=quantiles, role="quantiles"),
            ),
            # Hidden values mean something only to the weights that made them.
            state_schema=f"forecast/1 {self.recipe.name}/{self.recipe.version}",
        )

    def output_scales(self) -> dict[str, float]:
        """The spread of the series before its test rows: forecasts are in its unit."""
        spread = np.nanstd(self.series.values[: self.split.test_start, 0].astype(np.float64))
        scale = float(f"{max(float(spread), LEAST_SCALE):.4g}")
        return {"mean": scale, "quantiles": scale}

    def example_inputs(self, num_rows: int, num_steps: int) -> Arrays:
        """Stretches of the series from random rows on, a tenth of the cells missing.

        Only rows before the test rows are used; a stretch longer than they are goes round again,
        while its time runs on.
        """
        rng = np.random.default_rng(_EXAMPLE_SEED)
        end = self.split.test_start
        starts = rng.integers(0, max(1, end - num_steps), size=num_rows)
        rows = starts[:, None] + np.arange(num_steps)
        x = self.series.values[rows % end]
        x = np.where(rng.random(x.shape) < 0.1, np.float32(np.nan), x)
        time = self.series.time_s[0] + rows * self.options.frequency_s
        return {"x": x.astype(np.float32), "time": time.astype(np.int64)}

    def manifest_parts(self) -> ManifestParts:
        options = self.options
        licence = self._source.licence
        return ManifestParts(
            weights_licence="Apache-2.0, as the project" if licence == "MIT" else "not decided",
            weights_note=(
                "The data's MIT licence allows training, use and sale with its notice kept."
                if licence == "MIT"
                else f"The data are '{licence}': check its terms before you share these weights."
            ),
            forecast=ForecastSpec(
                columns=self.series.columns,
                frequency=options.frequency,
                frequency_s=options.frequency_s,
                horizon=options.horizon,
                quantiles=options.quantiles,
                context_steps=options.window,
            ),
        )

    def sources(self) -> tuple[DataSource, ...]:
        return (self._source,)

    def evaluate(self, model: ServedModel) -> Evaluation:
        caveats = [
            "It knows nothing of the days ahead but the calendar: no weather forecast, no events.",
            "It was trained on one series; forecasts of another one have not been measured.",
            f"Until {self.options.window} rows are fed it is less accurate than the figures say.",
        ]
        if self.options.holidays:
            caveats.append(
                f"Holidays ({self.options.holidays}) are known from {FIRST_YEAR} to {LAST_YEAR}."
            )
        return evaluate_forecasts(model, self.series, self.options, self.split, tuple(caveats))


class ForecastLoss(SequenceLoss):
    """The loss of `(x[B,T,F], time[B,T], truth[B,T,K])`, in units of each row's causal scale."""

    def __init__(self, levels: Tensor, mean_weight: float) -> None:
        self._levels = levels
        self._mean_weight = mean_weight

    def num_steps(self, batch: Batch) -> int:
        return int(batch[0].shape[1])

    def cut(self, batch: Batch, steps: slice) -> Batch:
        return tuple(part[:, steps] for part in batch)

    def part(
        self, network: StreamNetwork, batch: Batch, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(network, ForecastNetwork)
        x, time, truth = batch
        if state is None:
            state = network.initial_state().to(x).expand(x.shape[0], -1)
        mean, quantiles, location, scale, state = network.scaled(x, time, None, state)
        levels = self._levels.to(x.device)
        scaled_truth = (truth - location) / scale
        loss = forecast_loss(scaled_truth, mean, quantiles, levels, self._mean_weight)
        # A truth whose scaled value is not finite counts, where a missing one does not.
        is_lost = (torch.isfinite(truth) & ~torch.isfinite(scaled_truth)).any()
        return torch.where(is_lost, torch.full_like(loss, float("nan")), loss), state


def _split(series: Series, options: ForecastOptions) -> Split:
    num_rows = len(series.values)
    test_start = int(num_rows * (1 - options.test_share))
    validation_start = test_start - int(num_rows * options.validation_share)
    needed = options.window + 2 * options.horizon
    if validation_start < needed or num_rows - test_start <= options.horizon:
        raise DataError(
            f"{num_rows} rows are too few: window {options.window} and horizon {options.horizon}"
            f" need at least {needed} training rows and {options.horizon + 1} test rows; this split"
            f" leaves {validation_start} and {num_rows - test_start}"
        )
    known = np.isfinite(series.values[:, 0])
    parts = {"training": range(validation_start), "validation": range(validation_start, test_start)}
    for part, rows in parts.items():
        if not known[rows.start : rows.stop].any():
            raise DataError(
                f"target {options.target!r} holds no value in the {part} rows, {rows.start} to"
                f" {rows.stop - 1} of {num_rows}: expected some to train on and some to stop by;"
                " change task.validation_share or task.test_share, or fill the gap"
            )
    by_horizon = np.lib.stride_tricks.sliding_window_view(known[test_start:], options.horizon)
    if not by_horizon.any(axis=0).all():
        raise DataError(
            f"target {options.target!r} holds too few values in the test rows, {test_start} to"
            f" {num_rows - 1}: expected one at each of the {options.horizon} rows ahead, to judge"
            " by; raise task.test_share, or fill the gap"
        )
    return Split(validation_start, test_start)


TASK = ForecastTask
