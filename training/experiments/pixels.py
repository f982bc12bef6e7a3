"""Digits read pixel by pixel, and in a scrambled order (Le, Jaitly & Hinton, 2015).

One pixel a step, from the upper left to the lower right; after the last one the network names the
digit. Permuted: the pixels come in one fixed random order, so that neighbours no longer help and
what belongs together lies far apart.

784 steps take hours on a processor. Reductions are offered and labelled as what they are:
8 × 8 digits (64 steps; no file needed) and MNIST halved to 14 × 14 (196 steps). In both the last
pixels tell much, and a tanh RNN sees those; a third one names the digit some blank steps later,
when all of it must be remembered.

Axis legend: N images, B rows, T steps (pixels).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.config import CellConfig
from training.data.dataset import hash_files
from training.data.digit_images import DigitImages, halve, packaged_digits, read_mnist
from training.errors import DataError
from training.evaluate.report import Table
from training.experiments.experiment import (
    DATA_SETTING,
    Experiment,
    Findings,
    Job,
    Outcome,
    Result,
    Settings,
    cell_settings,
)
from training.experiments.figures import plot_curves, spread_of
from training.experiments.learning import LearningPlan, Reader, learn

_HIDDEN: Final = 100
_VALIDATION: Final = 1000
_PERMUTATION_SEED: Final = 92916

# cell → kind, options, learning rate
_CELLS: Final[dict[str, tuple[str, dict[str, object], float]]] = {
    "tanh RNN": ("rnn", {}, 3e-4),
    "IRNN": ("irnn", {}, 3e-4),
    "IRNN with wider inputs": ("irnn", {"input_std": 0.1}, 3e-4),
    "LSTM": ("lstm", {"forget_bias": 1.0}, 2e-3),
}
_ORDERS: Final = ("in order", "permuted")
# Full MNIST, 784 steps: by later papers that cite the IRNN; the LSTM's by Arjovsky et al. (2016).
_PUBLISHED: Final = {
    "tanh RNN, in order": "35.0 %",
    "tanh RNN, permuted": "35.0 %",
    "IRNN, in order": "97.0 %",
    "IRNN, permuted": "82.0 %",
    "IRNN with wider inputs, in order": "not in the papers",
    "IRNN with wider inputs, permuted": "not in the papers",
    "LSTM, in order": "98.2 %",
    "LSTM, permuted": "88.0 %",
}


@dataclass(frozen=True, slots=True)
class _Size:
    side: int
    batch_size: int
    max_updates: int
    check_every: int
    cells: tuple[str, ...] = tuple(_CELLS)
    num_blank: int = 0
    """Steps behind the pixels, before the digit is named: what was seen must be kept so long."""

    @property
    def num_steps(self) -> int:
        return self.side**2 + self.num_blank


_WITHOUT_LSTM: Final = ("tanh RNN", "IRNN", "IRNN with wider inputs")
_SIZES: Final = {
    "digits8": _Size(8, 32, 3000, 200),
    "mnist14": _Size(14, 64, 3000, 250, _WITHOUT_LSTM),
    "digits8-late": _Size(8, 32, 2000, 200, _WITHOUT_LSTM, num_blank=64),
    "mnist28": _Size(28, 64, 40_000, 1000),
}


@dataclass(frozen=True)
class PixelsExperiment(Experiment):
    """Share of test images named wrongly, by cell and order."""

    name: ClassVar[str] = "pixels"
    title: ClassVar[str] = "Digits pixel by pixel"
    variants: ClassVar[dict[str, str]] = {
        "digits8": "REDUCED to digits of 8 × 8, 64 steps; about ten minutes on one core",
        "mnist14": "REDUCED to MNIST of 14 × 14, 196 steps; --data, about an hour on one core",
        "digits8-late": "REDUCED to digits of 8 × 8, 64 steps and 64 blank ones; ten minutes",
        "mnist28": "full MNIST of 28 × 28, 784 steps; --data, a day on one core",
    }

    def jobs(self, num_seeds: int) -> list[Job]:
        size = _SIZES[self.variant]
        if size.side > 8 and self.data_path is None:
            raise DataError(f"variant {self.variant!r} reads MNIST: pass --data PATH to its .npz")
        data: Settings = {}
        if size.side > 8 and self.data_path is not None:
            data = {DATA_SETTING: hash_files(Path(self.data_path))}
        return [
            Job(
                f"{cell}, {order}",
                seed,
                {
                    **cell_settings(kind, options),
                    "hidden_size": _HIDDEN,
                    "num_steps": size.num_steps,
                    "batch_size": size.batch_size,
                    "learning_rate": rate,
                    "clip": 1.0,
                    "max_updates": size.max_updates,
                    **data,
                },
            )
            for seed in range(1, num_seeds + 1)
            for order in _ORDERS
            for cell, (kind, options, rate) in _CELLS.items()
            if cell in size.cells
        ]

    @cached_property
    def images(self) -> DigitImages:
        if self.variant.startswith("digits8"):
            return packaged_digits()
        assert self.data_path is not None  # refused by `jobs`
        found = read_mnist(Path(self.data_path))
        if self.variant == "mnist28":
            return found
        return DigitImages(
            halve(found.images), found.labels, halve(found.test_images), found.test_labels
        )

    def run(self, job: Job) -> Outcome:
        size = _SIZES[self.variant]
        cell, order = job.method.split(", ")
        kind, options, rate = _CELLS[cell]
        network = Reader(CellConfig(kind=kind, hidden_size=_HIDDEN, options=options), 1, 10)
        images = self.images
        num_held_back = min(_VALIDATION, len(images.labels) // 5)
        x = as_steps(images.images, order, size.num_blank)
        x_test = as_steps(images.test_images, order, size.num_blank)
        y, y_test = torch.from_numpy(images.labels), torch.from_numpy(images.test_labels)
        generator = torch.Generator().manual_seed(job.seed)
        batches = _endless(x[num_held_back:], y[num_held_back:], size.batch_size, generator)
        return learn(
            network,
            batches,
            lambda x, y: functional.cross_entropy(network.last(x), y),
            check=lambda: wrong_share(network, x[:num_held_back], y[:num_held_back]),
            test=lambda: wrong_share(network, x_test, y_test),
            plan=LearningPlan(rate, size.max_updates, size.check_every),
        )

    def find(self, results: Sequence[Result]) -> Findings:
        methods = [f"{cell}, {order}" for order in _ORDERS for cell in _CELLS]
        spreads = spread_of(results, methods)
        right = {s.method: 100 * (1 - np.array(s.figures)) for s in spreads if s.figures}
        rows = [
            (
                s.method,
                f"{np.median(right[s.method]):.1f} %",
                " · ".join(f"{value:.1f}" for value in right[s.method]),
                f"{s.num_weights:,}",
                _PUBLISHED[s.method],
            )
            for s in spreads
            if s.figures
        ]
        header = ("cell, order", "median", "each seed", "weights", "published, full MNIST")
        size = _SIZES[self.variant]
        blank = f", the last {size.num_blank} of them blank" if size.num_blank else ""
        reduced = "" if size.side == 28 else " This is a reduction: no figure of full MNIST."
        return Findings(
            summary=(
                f"Digits of {size.side} × {size.side}, one pixel a step: {size.num_steps} steps"
                f"{blank}. {self._orders(right)}{reduced}"
            ),
            tables=(Table("Test images named rightly", header, rows),),
            plots=tuple(
                plot_curves(
                    results,
                    [f"{cell}, {order}" for cell in _CELLS],
                    f"{size.side} × {size.side} pixels, {order}",
                    "update of the weights",
                    "share of validation images named wrongly",
                    level=(0.9, "guessing: 0.9"),
                    file=f"curves-{order.replace(' ', '-')}.png",
                )
                for order in _ORDERS
                if any(result.method.endswith(order) for result in results)
            ),
            deviations=(
                f"{size.num_steps} steps in place of 784{blank},"
                f" and {size.max_updates:,} updates of {size.batch_size} images.",
                "Adam and a learning rate for each cell, where the paper has plain gradient descent"
                " and a grid of rates; it also trains far longer. An IRNN starts with W_ih ~"
                " N(0, 0.001) and hardly sees its input at first, which costs more of a short"
                " training than of a long one: with wider inputs, N(0, 0.1), it starts sooner.",
                "The weights reported are the best on validation images taken from the training"
                " images; the permutation is one for all seeds.",
            ),
        )

    def _orders(self, right: dict[str, np.ndarray]) -> str:
        """Which cells come out above which, in words."""
        said = []
        for order in _ORDERS:
            found = {cell: right.get(f"{cell}, {order}") for cell in _CELLS}
            medians = {cell: float(np.median(v)) for cell, v in found.items() if v is not None}
            ranked = sorted(medians, key=lambda cell: -medians[cell])
            said.append(f"{order.capitalize()}: {' > '.join(ranked)}.")
        return " ".join(said)


def as_steps(images: np.ndarray, order: str, num_blank: int = 0) -> Tensor:
    """`[N, P, P]` → `[N, T, 1]`, in reading order or in the one scrambled order, then blanks."""
    flat = images.reshape(len(images), -1)
    if order == "permuted":
        flat = flat[:, np.random.default_rng(_PERMUTATION_SEED).permutation(flat.shape[1])]
    flat = np.pad(flat, ((0, 0), (0, num_blank)))
    return torch.from_numpy(np.ascontiguousarray(flat, dtype=np.float32)).unsqueeze(2)


def wrong_share(network: Reader, x: Tensor, y: Tensor) -> float:
    parts = zip(torch.split(x, 500), torch.split(y, 500), strict=True)
    wrong = [int((network.last(part).argmax(dim=1) != truth).sum()) for part, truth in parts]
    return sum(wrong) / len(y)


def _endless(
    x: Tensor, y: Tensor, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        order = torch.randperm(len(y), generator=generator)
        for rows in torch.split(order, batch_size):
            yield x[rows], y[rows]


EXPERIMENT = PixelsExperiment
