"""The difference between the predictions of two versions for the same observations."""

import math

import numpy as np

from service.engine.models.loaded_model import LoadedModel
from service.stores.record.record import PackedOutputs, Record


def divergence(
    before: LoadedModel | None, last: PackedOutputs, after: LoadedModel, outputs: PackedOutputs
) -> dict[str, float] | None:
    """The largest difference of each output at the last step, by the name of the output.

    None if the earlier prediction is not kept, no loaded version can read it, its outputs have
    other names or shapes, or a difference is beyond float64.
    """
    if before is None or not last or not outputs:
        return None
    if before.manifest.generate is not None:  # generated text may follow
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
    """The last reply, if it is the prediction after the record's current step."""
    ring = record.kept_replies
    if ring:
        return ring[-1].outputs
    header = record.header
    return header.outputs if header.history == record.step else b""
