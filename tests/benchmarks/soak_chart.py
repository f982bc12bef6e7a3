"""A picture of a soak: what must not grow, against time."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

_PANELS = {
    "resident_mib": "memory, MiB",
    "p99_ms": "99th percentile of a step, ms",
    "file_descriptors": "file descriptors",
    "threads": "threads",
    "carry_sessions_cached": "sessions in memory",
    "carry_queue_depth": "waiting for a graph",
}


def draw_soak(answer: dict, path: Path) -> None:
    """Write a PNG of the samples; the second half, which is judged, with its line."""
    minutes = [each["at_s"] / 60 for each in answer["samples"]]
    drawing, panels = plt.subplots(2, 3, figsize=(12, 6), layout="constrained", sharex=True)
    for panel, (name, title) in zip(panels.flat, _PANELS.items(), strict=True):
        panel.plot(minutes, [each[name] for each in answer["samples"]], lw=1)
        slope = answer["slopes"].get(name)
        if slope is not None:
            title += f"   ({100 * slope['share_per_h']:+.1f} % an hour)"
        panel.set_title(title, fontsize=9)
        panel.set_ylim(bottom=0)
        panel.axvspan(minutes[len(minutes) // 2], minutes[-1], color="0.9", zorder=0)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[-1]:
        panel.set_xlabel("minutes")
    drawing.suptitle(
        f"{answer['asked_per_s']:,.0f} steps a second, 70 % of {answer['can_per_s']:,.0f};"
        f" {answer['sessions_opened']:,} sessions opened; {answer['store']}"
    )
    drawing.savefig(path, dpi=110)
    plt.close(drawing)
