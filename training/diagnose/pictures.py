"""The pictures of a diagnosis: gradient flow, clipping, spectral radius, activations."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from training.diagnose.gradient_flow import GradientFlow
from training.diagnose.watch import Watched
from training.evaluate.plots.figure import BLACK, BLUE, GREY, ORANGE, style, to_png
from training.evaluate.report import Plot

_COLOURS = (BLUE, "#56b4e9", "#cc79a7", ORANGE, "#009e73", "#e6b000", GREY, BLACK)
_DASHES = ("-", "--", "-.")
_LOOKS = [(colour, dash) for dash in _DASHES for colour in _COLOURS]
"""Told apart by dashes where there are more lines than colours."""
_FLOOR, _CEILING = 1e-12, 1e12
_FAR_LARGER = 20


def plot_flows(flows: Sequence[tuple[str, GradientFlow]], title: str, file: str) -> Plot:
    """Gradients against distance; what leaves the picture has vanished or exploded."""
    with style():
        figure = Figure(figsize=(8, 4.4), layout="constrained")
        panel = figure.subplots()
        for (name, flow), (colour, dash) in zip(flows, _LOOKS, strict=False):
            seen = np.where(flow.norms > 0, flow.norms, np.nan)
            panel.plot(seen, color=colour, linestyle=dash, label=name)
        panel.axhline(1, color=BLACK, linewidth=0.8, linestyle=":")
        panel.set_yscale("log")
        _limit(panel, [flow.norms for _, flow in flows])
        panel.set_xlabel("k: steps back in time")
        panel.set_ylabel("‖∂L/∂h(t−k)‖ / ‖∂L/∂h(t)‖")
        panel.set_title(title)
        # Named from the top down, as the lines end.
        ends = [float(np.nan_to_num(flow.norms[-1], nan=np.inf)) for _, flow in flows]
        handles, names = panel.get_legend_handles_labels()
        order = sorted(range(len(flows)), key=lambda place: -ends[place])
        figure.legend(
            [handles[place] for place in order],
            [names[place] for place in order],
            loc="outside right upper",
            fontsize=9,
        )
        png = to_png(figure)
    return Plot(file, "Below the dotted line gradients shrink, above it they grow.", png)


def plot_radii(watched: Sequence[Watched]) -> Plot:
    """The spectral radius of W_hh while it is trained."""
    with style():
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        panel = figure.subplots()
        shown = [one for one in watched if one.radii]
        for one, (colour, dash) in zip(shown, _LOOKS, strict=False):
            updates, radii = zip(*one.radii, strict=True)
            panel.plot(updates, radii, color=colour, linestyle=dash, label=_name(one))
        panel.axhline(1, color=BLACK, linewidth=0.8, linestyle=":")
        panel.set_xlabel("update of the weights")
        panel.set_ylabel("spectral radius of W_hh")
        panel.set_title("Where training takes the recurrence")
        figure.legend(loc="outside right upper", fontsize=9)
        png = to_png(figure)
    return Plot("radius.png", "Above 1 (dotted) a linear recurrence explodes.", png)


def plot_clipping(watched: Sequence[Watched]) -> Plot:
    """Loss and gradient norm with and without clipping, side by side."""
    with style():
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        losses, norms = figure.subplots(1, 2)
        for one, colour in zip(watched, (ORANGE, BLUE), strict=True):
            label = "without clipping" if one.plan.clip is None else f"clipped to {one.plan.clip:g}"
            finite = [loss if math.isfinite(loss) else np.nan for loss in one.losses]
            losses.plot(np.minimum(finite, _CEILING), color=colour, label=label)
            norms.plot(np.minimum(one.norms, _CEILING), color=colour, alpha=0.5, label=label)
            if one.has_diverged:
                last = max(0, len(one.norms) - 1)
                norms.plot(last, min(one.norms[last], _CEILING), "X", color=colour, markersize=8)
        clipped = next(one for one in watched if one.plan.clip is not None)
        norms.plot(clipped.clipped_norms, color=BLUE, linewidth=2)
        norms.annotate(
            "what clipping leaves",
            (len(clipped.clipped_norms), clipped.clipped_norms[-1]),
            xytext=(0, -12),
            textcoords="offset points",
            ha="right",
            color=BLUE,
            fontsize=9,
        )
        losses.set_title("Loss")
        norms.set_title("Norm of the gradient")
        for panel in (losses, norms):
            panel.set_yscale("log")
            panel.set_xlabel("update of the weights")
        norms.set_ylim(bottom=min(0.2, clipped.clipped_norms[-1] / 5))
        handles, labels = losses.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        png = to_png(figure)
    return Plot("clipping.png", "The cross marks the update after which nothing was finite.", png)


def plot_activations(watched: Sequence[Watched]) -> Plot:
    """What the units say at the start (grey) and after training (blue), one panel each."""
    with style():
        columns = 4
        rows = math.ceil(len(watched) / columns)
        figure = Figure(figsize=(9, 1.8 * rows + 0.4), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel, one in zip(panels, watched, strict=False):
            low, high, bins = _bins(panel, one.activations)
            looks = ((GREY, "at the start"), (BLUE, "after training"))
            for part, (colour, label) in zip(one.activations, looks, strict=False):
                share = np.full(len(part), 1 / len(part))
                panel.hist(
                    np.clip(part, low, high),
                    bins=bins,
                    weights=share,
                    color=colour,
                    alpha=0.6,
                    label=label,
                )
            panel.set_yscale("log")
            panel.set_ylim(1e-4, 1.5)
            panel.set_title(_name(one), fontsize=9)
            panel.tick_params(labelsize=8)
        for panel in panels[len(watched) :]:
            panel.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        png = to_png(figure)
    return Plot("activations.png", "Share of all outputs of a batch, by value.", png)


def _bins(panel: Axes, parts: Sequence[np.ndarray]) -> tuple[float, float, list[float]]:
    """Bins that hold nearly all values; where one part is far larger, they widen outwards."""
    spans = [np.quantile(part[np.isfinite(part)], [0.002, 0.998]) for part in parts]
    low, high = float(min(span[0] for span in spans)), float(max(span[1] for span in spans))
    high = high if high > low else low + 1
    sizes = sorted(float(np.abs(span).max()) for span in spans)
    if sizes[-1] <= _FAR_LARGER * sizes[0]:
        return low, high, np.linspace(low, high, 41).tolist()
    width = max(sizes[0], sizes[-1] / 1000)
    panel.set_xscale("asinh", linear_width=width)
    decades = np.arange(np.ceil(np.log10(3 * width)), np.floor(np.log10(sizes[-1])) + 1)
    panel.set_xticks([0, *10 ** decades[:: -(-len(decades) // 3) or 1]])
    panel.xaxis.set_minor_locator(NullLocator())
    edges = np.linspace(np.arcsinh(low / width), np.arcsinh(high / width), 41)
    return low, high, (width * np.sinh(edges)).tolist()


def _name(one: Watched) -> str:
    return f"{one.case.name} (diverged)" if one.has_diverged else one.case.name


def _limit(panel: Axes, norms: Sequence[np.ndarray]) -> None:
    finite = np.concatenate(norms)
    finite = finite[np.isfinite(finite) & (finite > 0)]
    if len(finite) == 0:
        return  # nothing is drawn
    panel.set_ylim(max(_FLOOR, finite.min() / 3), min(_CEILING, finite.max() * 3))
