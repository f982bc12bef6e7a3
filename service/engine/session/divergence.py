"""How far the prediction of one version is from that of another for the same observations."""

import math

import numpy as np

from service.engine.models.loaded_model import LoadedModel
from service.stores.record.record import PackedOutputs, Record


def divergence(
    before: LoadedModel | None, last: PackedOutputs, after: LoadedModel, outputs: PackedOutputs
) -> dict[str, float] | None:
    """The largest difference in each output, by its name, of the last step of each.

    None where the earlier prediction is not kept, or cannot be read by a version that is loaded, or
    has outputs of other names or shapes, or is too far away for a float64.
    """
    if before is None or not last or not outputs:
        return None
    if before.manifest.generate is not None:  # what it wrote may stand behind
        last = last[: before.runner.outputs.step_bytes]
    one, other = before.runner.outputs.unpack(last), after.runner.outputs.unpack(outputs)
    if {n: v.shape[1:] for n, v in one.items()} != {n: v.shape[1:] for n, v in other.items()}:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        found = {
            name: float(np.abs(one[name][-1].astype(np.float64) - other[name][-1]).max(initial=0))
            for name in one
        }
    return found if all(map(math.isfinite, found.values())) else None


def last_prediction(record: Record) -> PackedOutputs:
    """What was answered last, if that is the prediction after the record's very step."""
    ring = record.kept_replies
    if ring:
        return ring[-1].outputs
    header = record.header
    return header.outputs if header.history == record.step else b""
