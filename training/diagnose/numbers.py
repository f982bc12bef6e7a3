"""The numbers of a diagnosis, beside its pictures, for tests and other pages."""

import json
import math
from collections.abc import Sequence
from typing import Any

from training.diagnose.gradient_flow import GradientFlow
from training.diagnose.watch import Watched

RESULTS_FILE = "results.json"


def write_numbers(watched: Sequence[Watched], raw: Watched, clipped: Watched, command: str) -> str:
    """What vanishes, explodes and is kept, before and after training; what clipping does."""
    numbers = {
        "command": command,
        "cases": {
            one.case.name: {
                "at_start": _flow(one.flows[0]),
                "after_training": None if one.has_diverged else _flow(one.flows[-1]),
            }
            for one in watched
        },
        "clipping": {
            "updates_without": len(raw.norms),
            "diverges_without": raw.has_diverged,
            "updates_with": len(clipped.norms),
            "diverges_with": clipped.has_diverged,
            "largest_norm_before": _rounded(max(clipped.norms)),
            "largest_norm_after": _rounded(max(clipped.clipped_norms)),
        },
    }
    return json.dumps(numbers, indent=1) + "\n"


def _flow(flow: GradientFlow) -> dict[str, Any]:
    return {
        "one_step_back": _rounded(flow.factor),
        "steps_back": len(flow.norms) - 1,
        "all_steps_back": _rounded(float(flow.norms[-1])),
        "the_gradient": flow.verdict,
        "radius": None if flow.radius is None else _rounded(flow.radius),
    }


def _rounded(value: float) -> float | None:
    """Four digits; JSON has no infinity."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
