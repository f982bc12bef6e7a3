"""Packs the plain records of a batch at once: sessions that keep only their last reply."""

import secrets
from functools import lru_cache
from typing import Any

import numpy as np

from service.stores.record.record import MAGIC, PLAIN_FORMAT
from service.stores.record.revision import REVISION_BYTES


def pack_batch(
    steps: "np.ndarray[Any, np.dtype[np.int64]]",
    counts: list[int],
    ttl_s: list[float],
    states: np.ndarray,
    digests: list[bytes],
    outputs: np.ndarray,
    updated_at: float,
) -> list[bytes]:
    """`pack_data` of many records without pending text and with one kept reply each.

    `steps` are the counts before the batch; states and outputs are bytes `[B, …]`. The result is
    the same as that of `pack_data`, in a fifth of the time, because it copies whole columns.
    """
    num_rows, state_bytes = states.shape
    dtype = _batch_dtype(state_bytes, outputs.shape[1])
    rows = np.empty(num_rows, dtype)
    rows["head"] = np.frombuffer(MAGIC + bytes([PLAIN_FORMAT, 0]), "V4")
    rows["revision"] = np.frombuffer(secrets.token_bytes(REVISION_BYTES * num_rows), "V16")
    rows["from_step"] = steps
    rows["num_observed"] = counts
    rows["step"] = steps + rows["num_observed"]
    rows["updated_at"] = updated_at
    rows["ttl_s"] = ttl_s
    rows["state_bytes"] = state_bytes
    rows["pending_bytes"] = 0
    rows["num_replies"] = 1
    rows["num_tokens"] = 0
    rows["state"] = states.view(dtype["state"])[:, 0]
    rows["output_bytes"] = outputs.shape[1]
    rows["digest"] = np.frombuffer(b"".join(digests), "V16")
    rows["outputs"] = outputs.view(dtype["outputs"])[:, 0]
    data, size = rows.tobytes(), dtype.itemsize
    return [data[start : start + size] for start in range(0, len(data), size)]


@lru_cache
def _batch_dtype(state_bytes: int, output_bytes: int) -> np.dtype[np.void]:
    """`_HEAD`, a state, `_REPLY` and outputs, as columns."""
    head = [
        ("head", "V4"), ("revision", "V16"), ("step", "<i8"), ("updated_at", "<f8"),
        ("ttl_s", "<f8"), ("state_bytes", "<u4"), ("pending_bytes", "<u4"),
        ("num_replies", "<u4"), ("num_tokens", "<i8"),
    ]  # fmt: skip
    reply = [("from_step", "<i8"), ("num_observed", "<u4"), ("output_bytes", "<u4")]
    blobs = [("state", f"V{state_bytes}")]
    return np.dtype([*head, *blobs, *reply, ("digest", "V16"), ("outputs", f"V{output_bytes}")])
