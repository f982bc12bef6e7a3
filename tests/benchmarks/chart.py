"""A picture of `make bench`: steps a second against sessions, one panel for each reference."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from tests.benchmarks.figures import Figure

_PANELS = {
    "In one process": ("raw ONNX", "engine"),
    "JSON, one step a request or message": (
        "FastAPI",
        "HTTP",
        "stateless",
        "WebSocket",
        "one WebSocket",
    ),
}


def draw(figures: list[Figure], path: Path) -> None:
    """Write a PNG; the references are drawn dashed."""
    drawing, panels = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained")
    for panel, (title, starts) in zip(panels, _PANELS.items(), strict=True):
        shown = [each for each in figures if each.name.startswith(starts)]
        sessions = sorted({each.sessions for each in shown if each.of})
        shown = [each for each in shown if each.sessions in sessions]
        for name in dict.fromkeys(each.name for each in shown):
            mine = sorted((f for f in shown if f.name == name), key=lambda f: f.sessions)
            is_reference = not mine[0].of
            panel.plot(
                [f.sessions for f in mine],
                [f.steps_per_s for f in mine],
                "--" if is_reference else "-",
                color="0.45" if is_reference else None,
                marker="o",
                markersize=4,
                label=name,
            )
        panel.set(title=title, xlabel="sessions", xscale="log", yscale="log")
        panel.set_xticks(sessions, [f"{each:,}" for each in sessions])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(
            fontsize=8, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13)
        )
    panels[0].set_ylabel("steps a second")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=110)
    plt.close(drawing)
