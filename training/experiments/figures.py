"""Tables and pictures that the experiments share."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from matplotlib.figure import Figure

from training.evaluate.plots.figure import BLACK, BLUE, GREEN, GREY, ORANGE, style, to_png
from training.evaluate.report import Plot
from training.experiments.experiment import Result

COLOURS = (GREY, "#cc79a7", ORANGE, BLUE, GREEN, "#e69f00", BLACK, "#56b4e9")
"""Method by method; Okabe & Ito's, as in all pictures."""


@dataclass(frozen=True, slots=True)
class Spread:
    """One method over its seeds, in the order of the seeds."""

    method: str
    figures: list[float]
    """Of the seeds that did not diverge."""
    num_seeds: int
    num_weights: int
    seconds: float

    @property
    def median(self) -> str:
        return f"{median(self.figures):.4f}" if self.figures else "diverged"

    @property
    def each(self) -> str:
        diverged = self.num_seeds - len(self.figures)
        parts = [f"{figure:.4f}" for figure in self.figures] + ["diverged"] * diverged
        return " · ".join(parts)


def spread_of(results: Sequence[Result], methods: Sequence[str]) -> list[Spread]:
    """The methods that have results, in the order of `methods`."""
    found = []
    for method in methods:
        mine = sorted((r for r in results if r.method == method), key=lambda r: r.seed)
        if mine:
            figures = [r.outcome.figure for r in mine if r.outcome.figure is not None]
            seconds = sum(r.outcome.seconds for r in mine)
            found.append(Spread(method, figures, len(mine), mine[0].outcome.num_weights, seconds))
    return found


def plot_curves(
    results: Sequence[Result],
    methods: Sequence[str],
    title: str,
    x_label: str,
    y_label: str,
    *,
    level: tuple[float, str] | None = None,
    is_log: bool = False,
    file: str = "curves.png",
) -> Plot:
    """Every seed's curve, in its method's colour; `level` is a line to compare with."""
    with style():
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        panel = figure.subplots()
        for method, colour in zip(methods, COLOURS, strict=False):
            mine = [result for result in results if result.method == method]
            for place, result in enumerate(mine):
                points = [(x, y) for x, y in result.outcome.curve if y is not None]
                panel.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    color=colour,
                    linewidth=1.2,
                    alpha=0.85,
                    label=method if place == 0 else None,
                )
        if level is not None:
            value, label = level
            panel.axhline(value, color=BLACK, linewidth=1, linestyle=":")
            panel.annotate(
                label,
                (1, value),
                xycoords=("axes fraction", "data"),
                xytext=(-4, 4),
                textcoords="offset points",
                ha="right",
                fontsize=9,
            )
        if is_log:
            panel.set_yscale("log")
        panel.set_xlabel(x_label)
        panel.set_ylabel(y_label)
        panel.set_title(title)
        figure.legend(loc="outside right upper")
        png = to_png(figure)
    return Plot(file, "One line for each seed.", png)
