"""The look that all pictures share, and the one picture that every run has."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.evaluate.report import Plot

# Okabe & Ito's palette: told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, GREY, BLACK = "#0072b2", "#d55e00", "#009e73", "#8c8c8c", "#222222"

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    # Without these two, equal pictures would differ in bytes.
    "svg.hashsalt": "carry",
}


@contextmanager
def style() -> Iterator[None]:
    with mpl.rc_context(_STYLE):
        yield


def to_png(figure: Figure) -> bytes:
    """Bytes that depend on the picture alone: no date, no version."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def plot_training_curves(history: dict[str, dict[str, list[tuple[int, float]]]]) -> Plot:
    """Loss by epoch, a panel for each phase."""
    names = {"search": "Search: training rows only", "refit": "Refit: training + validation rows"}
    with style():
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        panels = figure.subplots(1, len(history), squeeze=False, sharey=True)[0]
        phases = sorted(history.items(), key=lambda item: list(names).index(item[0]))
        for panel, (phase, metrics) in zip(panels, phases, strict=True):
            assert isinstance(panel, Axes)
            _plot_phase(panel, metrics)
            panel.set_title(names[phase])
        panels[0].set_ylabel("loss")
        png = to_png(figure)
    return Plot("training.png", "Loss by epoch. The ring marks the epoch that was kept.", png)


def plot_rate_search(rates: np.ndarray, losses: np.ndarray, suggestion: float) -> Plot:
    """Loss against the learning rate of a range test."""
    with style():
        figure = Figure(figsize=(6.5, 3.4), layout="constrained")
        panel = figure.subplots()
        panel.plot(rates, losses, color=BLUE)
        panel.axvline(suggestion, color=ORANGE, linestyle="--")
        panel.set_xscale("log")
        panel.set_xlabel("learning rate, rising from step to step")
        panel.set_ylabel("loss (smoothed)")
        panel.set_title(f"The loss falls fastest at a rate of {suggestion:.2g}")
        png = to_png(figure)
    return Plot("rates.png", "Loss against the learning rate of a range test.", png)


def _plot_phase(panel: Axes, metrics: dict[str, list[tuple[int, float]]]) -> None:
    looks = {"train_loss": ("training", BLUE), "val_loss": ("validation", ORANGE)}
    for metric, (label, colour) in looks.items():
        values = metrics.get(metric, [])
        if values:
            panel.plot(
                [epoch + 1 for epoch, _ in values],
                [v for _, v in values],
                color=colour,
                marker=".",  # one epoch alone makes no line
                label=label,
            )
    if metrics.get("val_loss"):
        epoch, value = min(metrics["val_loss"], key=lambda pair: pair[1])
        panel.plot(epoch + 1, value, "o", mfc="none", color=ORANGE, markersize=9)
    panel.set_xlabel("epoch")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.legend()
