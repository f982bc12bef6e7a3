"""The outputs of a graph, packed into bytes for each step.

Rule 1: a packed step is the concatenation, in manifest order, of each output's values in C order,
        little-endian. Its length is `OutputLayout.step_bytes`, the same for every step of a model.
Rule 2: packed outputs are immutable bytes: a kept reply references no array of a batch.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from service.contract.tensors import OutputSpec


class OutputLayout:
    """Packs and unpacks the outputs of a model."""

    def __init__(self, specs: Sequence[OutputSpec]) -> None:
        self._specs = tuple(specs)
        self._step = np.dtype(
            [
                (spec.name, spec.dtype, tuple(a for a in spec.shape if isinstance(a, int)))
                for spec in specs
            ]
        )
        self.step_bytes = self._step.itemsize
        dtypes = {spec.dtype for spec in specs}
        # Outputs of one dtype are joined in it, which takes fewer calls than joining bytes.
        self.joined_dtype = np.dtype(dtypes.pop() if len(dtypes) == 1 else np.uint8)

    def pack_last(self, outputs: Mapping[str, np.ndarray], lengths: np.ndarray) -> np.ndarray:
        """`{name: [B, T, …]}` → step `lengths - 1` of each row, packed, bytes `[B, step_bytes]`."""
        return self.join_last(outputs, lengths).view(np.uint8)

    def join_last(self, outputs: Mapping[str, np.ndarray], lengths: np.ndarray) -> np.ndarray:
        """As `pack_last`, of `joined_dtype`: the same bytes."""
        if next(iter(outputs.values())).shape[1] == 1:
            return self._join({name: value[:, 0] for name, value in outputs.items()})
        last = np.arange(len(lengths)), lengths - 1
        return self._join({name: value[last] for name, value in outputs.items()})

    def pack_row(self, outputs: Mapping[str, np.ndarray], row: int, num_steps: int) -> bytes:
        """`{name: [B, T, …]}` → the first `num_steps` steps of one row, packed end to end."""
        return self._join(
            {name: value[row, :num_steps] for name, value in outputs.items()}
        ).tobytes()

    def unpack(self, data: bytes) -> dict[str, np.ndarray]:
        """Packed steps, end to end → `{name: [n, …]}`."""
        steps = np.frombuffer(data, self._step)
        return {spec.name: steps[spec.name] for spec in self._specs}

    def _join(self, steps: Mapping[str, np.ndarray]) -> np.ndarray:
        """`{name: [n, …]}` → `joined_dtype` `[n, …]`, `step_bytes` each."""
        columns = [
            np.ascontiguousarray(steps[spec.name], spec.dtype).reshape(len(steps[spec.name]), -1)
            for spec in self._specs
        ]
        if self.joined_dtype == np.uint8:
            columns = [column.view(np.uint8) for column in columns]
        return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
