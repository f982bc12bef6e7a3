"""Pictures of a classifier: accuracy while reading, calibration, confusion."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, NullLocator, PercentFormatter

from training.evaluate.plots.figure import BLACK, BLUE, GREY, ORANGE, style, to_png
from training.evaluate.report import Plot

Bins = tuple[np.ndarray, np.ndarray]
"""Mean confidence and accuracy of each bin."""


def plot_prefixes(
    truth: np.ndarray, prefixes: Mapping[int, np.ndarray], baseline_accuracy: float
) -> Plot:
    """Accuracy and confidence by tokens read; probabilities[N, C] for each prefix."""
    read = list(prefixes)
    accuracy = [(p.argmax(axis=1) == truth).mean() for p in prefixes.values()]
    confidence = [p.max(axis=1).mean() for p in prefixes.values()]
    with style():
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.axhline(
            baseline_accuracy, color=GREY, lw=1.2, ls="--", label="TF-IDF regression, whole text"
        )
        axes.plot(read, confidence, "s--", color=ORANGE, ms=4.5, lw=1.4, label="mean confidence")
        axes.plot(read, accuracy, "o-", color=BLUE, ms=5, lw=2, label="accuracy")
        axes.set_xscale("log", base=2)
        axes.set_xticks(read, [str(n) for n in read])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("tokens read (texts that are shorter count as a whole)")
        axes.yaxis.set_major_locator(MultipleLocator(0.05))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        figure.legend(loc="outside upper center", ncols=3)
        png = to_png(figure)
    caption = "Accuracy while reading. Where confidence meets accuracy, early answers are honest."
    return Plot("prefixes.png", caption, png)


def plot_calibration(mine: Bins, baseline: Bins) -> Plot:
    """Accuracy by confidence, in equally full bins."""
    with style():
        figure = Figure(figsize=(5, 4.4), layout="constrained")
        axes = figure.subplots()
        low = float(min(mine[0][0], mine[1].min(), baseline[0][0], baseline[1].min())) - 0.02
        axes.plot([low, 1], [low, 1], color=BLACK, lw=1, ls="--", label="perfect")
        axes.plot(*baseline, "s-", color=GREY, ms=4, lw=1.2, label="TF-IDF regression")
        axes.plot(*mine, "o-", color=BLUE, ms=5, lw=2, label="this model")
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlim(low, 1.01)
        axes.set_ylim(low, 1.01)
        axes.set_aspect("equal")
        axes.legend(loc="upper left")
        png = to_png(figure)
    return Plot(
        "calibration.png",
        "On the dashed line, 80 % of the answers given with a confidence of 80 % are right.",
        png,
    )


def plot_confusion(counts: np.ndarray, labels: tuple[str, ...], what: str = "texts") -> Plot:
    """counts[C, C]: true label by row, answer by column; `what` was counted."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    with style():
        figure = Figure(figsize=(4.6, 3.9), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*counts.shape):
            colour = "white" if shares[row, column] > 0.6 else BLACK
            text = f"{counts[row, column]:,}\n{shares[row, column]:.1%}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=12)
        axes.set_xticks(range(len(labels)), labels)
        axes.set_yticks(range(len(labels)), labels, rotation=90, va="center")
        axes.set_xlabel("answer")
        axes.set_ylabel("truth")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        png = to_png(figure)
    return Plot("confusion.png", f"Held-out {what} by true label and answer.", png)
