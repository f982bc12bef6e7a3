"""Gradient descent with steps too small, right and too large, on one and the same problem.

The problem is the smallest recurrent task there is: AR(τ), tomorrow as a linear map of the last τ
values. Its error is a quadratic bowl, so theory says exactly what must happen: with λ the largest
curvature, a step below 2/λ shrinks the error, one above makes it grow without bound, and far below
it nothing moves in useful time.

Axis legend: N examples, W window (τ).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import ClassVar, Final

import numpy as np
from matplotlib.figure import Figure

from training.evaluate.plots.figure import BLACK, style, to_png
from training.evaluate.report import Plot, Table
from training.experiments.experiment import Experiment, Findings, Job, Outcome, Result
from training.experiments.figures import COLOURS, spread_of
from training.experiments.waveform import waveform

_WINDOW: Final = 4
_UPDATES: Final = 400
_DIVERGED: Final = 1e6

# method → step size as a share of 2/λ, the largest that does not diverge
_METHODS: Final = {
    "far too small": 0.001,
    "small": 0.05,
    "right": 0.5,
    "just below the limit": 0.98,
    "just above the limit": 1.02,
    "too large": 1.5,
}


@dataclass(frozen=True)
class StepSizeExperiment(Experiment):
    """Excess error over the best linear map after 400 updates, by step size."""

    name: ClassVar[str] = "step-size"
    title: ClassVar[str] = "Step sizes of gradient descent"
    variants: ClassVar[dict[str, str]] = {"ar4": "AR(4) on a made waveform; seconds"}

    def jobs(self, num_seeds: int) -> list[Job]:
        return [
            Job(method, seed, {"step_over_limit": share, "window": _WINDOW, "updates": _UPDATES})
            for seed in range(1, num_seeds + 1)
            for method, share in _METHODS.items()
        ]

    def run(self, job: Job) -> Outcome:
        started = monotonic()
        x_NW, y_N = examples(job.seed)
        curvature = 2 * x_NW.T @ x_NW / len(y_N)
        limit = 2 / np.linalg.eigvalsh(curvature).max()
        step = _METHODS[job.method] * limit
        best = np.linalg.lstsq(x_NW, y_N, rcond=None)[0]
        floor = float(np.mean((x_NW @ best - y_N) ** 2))
        weights = np.random.default_rng(job.seed).normal(size=_WINDOW)
        curve: list[tuple[float, float | None]] = []
        for update in range(_UPDATES + 1):
            errors = x_NW @ weights - y_N
            excess = float(np.mean(errors**2)) - floor
            if excess > _DIVERGED:
                break
            curve.append((update, excess))
            weights = weights - step * 2 * x_NW.T @ errors / len(y_N)
        has_diverged = excess > curve[0][1] if curve[0][1] is not None else True
        return Outcome(
            figure=None if has_diverged else excess,
            curve=curve,
            num_weights=_WINDOW,
            num_updates=len(curve) - 1,
            seconds=round(monotonic() - started, 3),
            details={"limit": float(limit), "step": float(step)},
        )

    def find(self, results: Sequence[Result]) -> Findings:
        spreads = spread_of(results, list(_METHODS))
        rows = [
            (
                s.method,
                f"{_METHODS[s.method]:g} · 2/λ",
                " · ".join(f"{figure:.2g}" for figure in s.figures) or "grows without bound",
                "falls" if _METHODS[s.method] < 1 else "grows",
            )
            for s in spreads
        ]
        header = ("step", "size", f"excess error after {_UPDATES} updates", "what theory says")
        return Findings(
            summary=(
                "The error of an AR(4) model above that of the best one, under gradient descent."
                " The limit 2/λ is computed from the data; crossing it by two parts in a hundred"
                " turns learning into divergence."
            ),
            tables=(Table("Excess error, each seed", header, rows),),
            plots=(_plot(results),),
            deviations=(
                "It demonstrates a textbook fact (for instance Boyd & Vandenberghe, 2004, 9.3);"
                " there is no published figure to compare with.",
            ),
        )


def examples(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows `[N, W]` of a waveform, newest value first, and the next value `[N]`."""
    values = waveform(seed) / waveform(seed).std()
    windows = np.lib.stride_tricks.sliding_window_view(values, _WINDOW)
    return windows[:-1, ::-1], values[_WINDOW:]


def _plot(results: Sequence[Result]) -> Plot:
    seed = min(result.seed for result in results)
    with style():
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        panel = figure.subplots()
        for method, colour in zip(_METHODS, COLOURS, strict=False):
            for result in results:
                if result.method == method and result.seed == seed:
                    points = [(x, y) for x, y in result.outcome.curve if y is not None]
                    label = f"{method}: {_METHODS[method]:g} · 2/λ"
                    panel.plot(
                        [x for x, _ in points], [y for _, y in points], color=colour, label=label
                    )
        panel.set_yscale("log")
        panel.set_ylim(1e-3, _DIVERGED)
        panel.axhline(1, color=BLACK, linewidth=0.5)
        panel.set_xlabel("update of the weights")
        panel.set_ylabel("error above that of the best weights")
        panel.set_title("One problem, six step sizes")
        figure.legend(loc="outside right upper")
        png = to_png(figure)
    return Plot("curves.png", "One seed; the others look alike.", png)


EXPERIMENT = StepSizeExperiment
