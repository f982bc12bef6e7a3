"""Generate a waveform from memory, as Koutník et al. (2014) compare the clockwork RNN.

No input at all: the network has to bring forth 320 given samples from nothing but its own state,
fast ripples and slow swings together. Error: NMSE, the mean squared error over the variance of the
waveform; always predicting the mean has 1.

The paper cuts its waveforms out of music; here they are made: a few partials with envelopes of
their own, drawn anew from each seed, so that nothing need be downloaded.

Axis legend: T steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import ClassVar, Final

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from training.config import CellConfig
from training.evaluate.plots.figure import BLACK, style, to_png
from training.evaluate.report import Plot, Table
from training.experiments.experiment import (
    Experiment,
    Findings,
    Job,
    Outcome,
    Result,
    cell_settings,
)
from training.experiments.figures import COLOURS, plot_curves, spread_of
from training.experiments.learning import LearningPlan, Reader, learn

NUM_STEPS: Final = 320
_UPDATES: Final = 2000
_WEIGHT_STD: Final = 0.1

# method → kind, options, hidden size, learning rate. Hidden sizes make the weights equally many.
_METHODS: Final[dict[str, tuple[str, dict[str, object], int, float]]] = {
    "RNN": ("rnn", {}, 27, 1e-3),
    "LSTM": ("lstm", {"forget_bias": 5.0}, 13, 3e-3),
    "GRU": ("gru", {}, 15, 3e-3),
    "CW-RNN": ("clockwork", {"num_modules": 9}, 36, 3e-3),
}
# The paper's order, and the figures of a public reproduction of it with 2,500 weights.
_PUBLISHED: Final = {
    "RNN": "above the CW-RNN; 0.25",
    "LSTM": "above the CW-RNN",
    "GRU": "not in the paper",
    "CW-RNN": "least of the three; 0.11",
}


@dataclass(frozen=True)
class WaveformExperiment(Experiment):
    """NMSE of the waveform that a network learnt to generate, by method; a seed is a waveform."""

    name: ClassVar[str] = "waveform"
    title: ClassVar[str] = "A waveform from memory"
    variants: ClassVar[dict[str, str]] = {
        "samples320": "320 samples, about 830 weights; about a quarter of an hour on one core"
    }

    def jobs(self, num_seeds: int) -> list[Job]:
        return [
            Job(
                method,
                seed,
                {
                    **cell_settings(kind, options),
                    "hidden_size": hidden_size,
                    "weight_std": _WEIGHT_STD,
                    "learning_rate": rate,
                    "clip": 1.0,
                    "max_updates": _UPDATES,
                },
            )
            for seed in range(1, num_seeds + 1)
            for method, (kind, options, hidden_size, rate) in _METHODS.items()
        ]

    def run(self, job: Job) -> Outcome:
        kind, options, hidden_size, rate = _METHODS[job.method]
        network = Reader(CellConfig(kind=kind, hidden_size=hidden_size, options=options), 1, 1)
        for name, weight in network.named_parameters():
            if "bias" not in name:
                nn.init.normal_(weight, std=_WEIGHT_STD)
        target = torch.from_numpy(waveform(job.seed)).float()
        silence = torch.zeros(1, NUM_STEPS, 1)

        def error(x: Tensor, y: Tensor) -> Tensor:
            return functional.mse_loss(network(x)[0, :, 0], y) / target.var(correction=0)

        outcome = learn(
            network,
            repeat((silence, target)),
            error,
            check=lambda: error(silence, target).item(),
            test=lambda: error(silence, target).item(),
            plan=LearningPlan(rate, _UPDATES, check_every=25),
        )
        with torch.no_grad():
            generated = network(silence)[0, :, 0]
        samples = {f"sample {t}": round(float(v), 4) for t, v in enumerate(generated)}
        return outcome.model_copy(update={"details": outcome.details | samples})

    def find(self, results: Sequence[Result]) -> Findings:
        spreads = spread_of(results, list(_METHODS))
        means = {s.method: float(np.mean(s.figures)) for s in spreads if s.figures}
        ratios = [
            f"{means[method] / means['CW-RNN']:.0f} times that of the CW-RNN for the {method}"
            for method in means
            if method != "CW-RNN" and "CW-RNN" in means
        ]
        rows = [
            (s.method, f"{means[s.method]:.4f}", s.each, f"{s.num_weights:,}", _PUBLISHED[s.method])
            for s in spreads
            if s.figures
        ]
        header = ("method", "mean NMSE", "each waveform", "weights", "published NMSE")
        return Findings(
            summary=(
                "A network without input learns to generate 320 samples."
                + (f" Mean NMSE is {'; '.join(ratios)}." if ratios else "")
            ),
            tables=(Table("NMSE of the generated waveform", header, rows),),
            plots=(
                _plot_waveforms(results),
                plot_curves(
                    results,
                    list(_METHODS),
                    "Learning one waveform by heart",
                    "update of the weights",
                    "NMSE",
                    level=(1.0, "always answering the mean: 1"),
                    is_log=True,
                ),
            ),
            deviations=(
                "Made waveforms in place of pieces of music; seeds are waveforms, three of them.",
                "Adam in place of Nesterov momentum with rates chosen by method; about 830 weights"
                " in place of up to 1,000. Unread weights of the CW-RNN are not counted.",
                f"W ~ N(0, {_WEIGHT_STD}) as in the paper. An input of zeros stands for no input;"
                " its weights are counted and useless, for every method alike.",
                "There is no test set: the task is to learn one sequence by heart.",
            ),
        )


def waveform(seed: int) -> np.ndarray:
    """`[320]` samples in [-1, 1]: six partials from slow to fast, each swelling and fading."""
    rng = np.random.default_rng(seed)
    t = np.arange(NUM_STEPS) / NUM_STEPS
    total = np.zeros(NUM_STEPS)
    for cycles in (1, 2.5, 6, 13, 24, 41):
        frequency = cycles * rng.uniform(0.8, 1.2)
        centre, width = rng.uniform(0.1, 0.9), rng.uniform(0.2, 0.7)
        envelope = np.exp(-(((t - centre) / width) ** 2))
        size = rng.uniform(0.4, 1.0) / np.sqrt(cycles)
        total += size * envelope * np.sin(2 * np.pi * (frequency * t + rng.uniform()))
    total -= total.mean()
    return np.asarray(total / np.abs(total).max())


def _plot_waveforms(results: Sequence[Result]) -> Plot:
    """What each method generates for the first waveform, above what it was to generate."""
    seed = min(result.seed for result in results)
    shown = [m for m in _METHODS if any(r.method == m and r.seed == seed for r in results)]
    with style():
        figure = Figure(figsize=(8, 1.5 * len(shown) + 0.6), layout="constrained")
        panels = figure.subplots(len(shown), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
        for panel, method in zip(panels, shown, strict=True):
            [result] = [r for r in results if r.method == method and r.seed == seed]
            details = result.outcome.details
            generated = [details[f"sample {t}"] for t in range(NUM_STEPS)]
            colour = COLOURS[list(_METHODS).index(method)]
            panel.plot(waveform(seed), color=BLACK, linewidth=1, alpha=0.4, label="target")
            panel.plot(generated, color=colour, linewidth=1.4, label=method)
            figure_text = f"{result.outcome.figure:.3f}" if result.outcome.figure else "diverged"
            panel.set_title(f"{method}: NMSE {figure_text}", fontsize=10)
        panels[-1].set_xlabel("sample")
        png = to_png(figure)
    caption = "The first waveform (grey) and what each network generates."
    return Plot("waveforms.png", caption, png)


EXPERIMENT = WaveformExperiment
