"""Every cell on one and the same problem: adding, over thirty steps.

What a cell is shows in what it cannot do here. A window of seven steps has forgotten the first
number; a model that sees one step at a time knows neither; a sigmoid passes no gradient over thirty
steps. One size, one rate and one number of updates for all: this ranks no cell for other problems.
A cell that is added to `training/cells` is compared from then on.

Axis legend: B rows, T steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from training.cells.base import cell_kinds
from training.config import CellConfig
from training.evaluate.plots.figure import BLACK, BLUE, style, to_png
from training.evaluate.report import Plot, Table
from training.experiments.adding import SOLVED, TRIVIAL, sequences
from training.experiments.experiment import (
    Experiment,
    Findings,
    Job,
    Outcome,
    Result,
    cell_settings,
)
from training.experiments.figures import spread_of
from training.experiments.learning import LearningPlan, Reader, learn

_STEPS: Final = 30
_HIDDEN: Final = 32
_BATCH: Final = 32
_RATE: Final = 3e-3
_UPDATES: Final = 2000

# Cells with options: other activations, and a ring that holds all steps.
_CHOSEN: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "rnn, tanh": ("rnn", {}),
    "rnn, sigmoid": ("rnn", {"activation": "sigmoid"}),
    "rnn, ReLU of radius 1": ("rnn", {"activation": "relu", "radius": 1.0}),
    "ring_attention, 32 steps": ("ring_attention", {"window": 32}),
}


def methods() -> dict[str, tuple[str, dict[str, Any]]]:
    """Method → kind and options; a cell that is not chosen above has its defaults."""
    chosen = {kind for kind, _ in _CHOSEN.values()}
    plain = {kind: (kind, dict[str, Any]()) for kind in cell_kinds() if kind not in chosen}
    return dict(sorted((plain | _CHOSEN).items()))


@dataclass(frozen=True)
class EveryCellExperiment(Experiment):
    """MSE on sequences never seen, by cell and seed."""

    name: ClassVar[str] = "cells"
    title: ClassVar[str] = "Every cell on one problem"
    variants: ClassVar[dict[str, str]] = {
        "adding30": "the adding problem with 30 steps; about a quarter of an hour on one core"
    }

    def jobs(self, num_seeds: int) -> list[Job]:
        return [
            Job(
                method,
                seed,
                {
                    **cell_settings(kind, options),
                    "hidden_size": _HIDDEN,
                    "num_steps": _STEPS,
                    "batch_size": _BATCH,
                    "learning_rate": _RATE,
                    "clip": 1.0,
                    "max_updates": _UPDATES,
                },
            )
            for seed in range(1, num_seeds + 1)
            for method, (kind, options) in methods().items()
        ]

    def run(self, job: Job) -> Outcome:
        kind, options = methods()[job.method]
        network = Reader(CellConfig(kind=kind, hidden_size=_HIDDEN, options=options), 2, 1)
        checked = sequences(1000, _STEPS, torch.Generator().manual_seed(10_001))
        tested = sequences(4000, _STEPS, torch.Generator().manual_seed(10_002))

        def error(x: Tensor, y: Tensor) -> Tensor:
            return functional.mse_loss(network.last(x).squeeze(1), y)

        outcome = learn(
            network,
            _endless(torch.Generator().manual_seed(job.seed)),
            error,
            check=lambda: error(*checked).item(),
            test=lambda: error(*tested).item(),
            plan=LearningPlan(_RATE, _UPDATES, check_every=100, stop_at=0.005),
        )
        carried = {"state_size": float(network.stack.state_size)}
        return outcome.model_copy(update={"details": outcome.details | carried})

    def find(self, results: Sequence[Result]) -> Findings:
        spreads = spread_of(results, list(methods()))
        carried = {r.method: int(r.outcome.details["state_size"]) for r in results}
        rows = [
            (
                spread.method,
                spread.median,
                spread.each,
                f"{sum(figure <= SOLVED for figure in spread.figures)} of {spread.num_seeds}",
                f"{spread.num_weights:,}",
                f"{carried[spread.method]:,}",
            )
            for spread in spreads
        ]
        solved = [s.method for s in spreads if any(figure <= SOLVED for figure in s.figures)]
        header = ("cell", "median MSE", "each seed", f"below {SOLVED}", "weights", "carried")
        return Findings(
            summary=(
                f"Sequences of {_STEPS} steps; always answering 1 gives an MSE of {TRIVIAL:.3f}."
                f" Below {SOLVED} with at least one seed come {len(solved)} of {len(spreads)}:"
                f" {'; '.join(solved)}."
            ),
            tables=(Table("Test MSE", header, rows),),
            plots=(_plot(results, [spread.method for spread in spreads]),),
            deviations=(
                "Nothing was published to compare with: the problem is that of Le et al. (2015),"
                " the cells are all that can be trained here, each as a recipe without options"
                " starts it but for what its name says.",
                f"{_HIDDEN} hidden units, a rate of {_RATE:g} and at most {_UPDATES:,} updates for"
                " every cell. One that does not solve it here may do so with another rate, or in"
                " more time.",
            ),
        )


def _endless(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield sequences(_BATCH, _STEPS, generator)


def _plot(results: Sequence[Result], names: list[str]) -> Plot:
    """A line for each cell, a dot for each seed."""
    with style():
        figure = Figure(figsize=(8, 0.28 * len(names) + 1), layout="constrained")
        panel = figure.subplots()
        for result in results:
            if result.outcome.figure is not None:
                place = names.index(result.method)
                panel.plot(result.outcome.figure, place, "o", color=BLUE, alpha=0.7)
        for level, label in ((TRIVIAL, "always answering 1"), (SOLVED, "solved")):
            panel.axvline(level, color=BLACK, linewidth=1, linestyle=":")
            panel.annotate(
                label,
                (level, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-4, 4),
                textcoords="offset points",
                ha="right",
                fontsize=9,
            )
        panel.set_yticks(range(len(names)), names)
        panel.invert_yaxis()
        panel.set_xscale("log")
        panel.set_xlabel("MSE on 4,000 sequences")
        png = to_png(figure)
    return Plot("cells.png", "A dot for each seed; left is better.", png)


EXPERIMENT = EveryCellExperiment
