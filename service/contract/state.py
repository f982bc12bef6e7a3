"""Named states of a graph, packed into bytes for each session.

Rule 1: states are paired by the names in the manifest, never by their order in the graph.
Rule 2: a packed row is the concatenation, in manifest order, of each state's row in C order,
        little-endian. Its length is `StateLayout.row_bytes`, the same for every session of a model.
Rule 3: packed rows are immutable bytes, so no store or other session can see a row change.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.contract.errors import BundleError
from service.contract.tensors import Axis, DType, TensorName, describe_shape

NamedStates = dict[str, np.ndarray]


class StateSpec(BaseModel):
    """One carried state: the input that takes it, the output that returns it, and its start.

    `initial` is ``"zeros"`` or the name of an array (shape of one row) in the bundle's
    `initial.npz`, which is hashed like every other file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: TensorName
    output: TensorName
    dtype: DType
    shape: tuple[Axis, ...] = Field(max_length=8)
    initial: Literal["zeros"] | Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")] = "zeros"

    @model_validator(mode="after")
    def _one_row_axis_and_no_time(self) -> Self:
        if self.shape.count("batch") > 1 or "time" in self.shape:
            raise ValueError(
                f'state {self.input!r}: expected one "batch" axis, or none if the graph takes one'
                f' row, and no "time" axis; found {describe_shape(self.shape)}'
            )
        return self

    @property
    def batch_axis(self) -> int | None:
        """None for a graph that takes one row."""
        return self.shape.index("batch") if "batch" in self.shape else None

    @property
    def row_shape(self) -> tuple[int, ...]:
        return tuple(axis for axis in self.shape if isinstance(axis, int))

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.row_shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class StateLayout:
    """Packs and unpacks the states of a model; contains the initial state."""

    def __init__(
        self,
        specs: Sequence[StateSpec],
        initial: Mapping[str, np.ndarray] | None = None,
        schema: str = "",
    ) -> None:
        self.specs = tuple(specs)
        self._plain: tuple[str, DType, tuple[int, ...]] | None = None
        """Set for a single state whose first axis is rows, the common case: no axis to move."""
        if len(self.specs) == 1 and self.specs[0].batch_axis == 0:
            self._plain = self.specs[0].input, self.specs[0].dtype, self.specs[0].row_shape
        self._outputs = [(spec.output, spec.dtype, spec.batch_axis) for spec in self.specs]
        self.row_bytes = sum(spec.row_bytes for spec in self.specs)
        self.initial_row = b"".join(_initial_bytes(spec, initial or {}) for spec in self.specs)
        self.schema_hash = _schema_hash(self.specs, schema, self.initial_row)

    def gather(self, rows: Sequence[bytes]) -> NamedStates:
        """`[B]` packed rows → the graph's state inputs, by input name."""
        data = b"".join(rows)
        if self._plain is not None:
            name, dtype, row_shape = self._plain
            return {name: np.frombuffer(data, dtype=dtype).reshape(len(rows), *row_shape)}
        packed = np.frombuffer(data, dtype=np.uint8).reshape(len(rows), self.row_bytes)
        states: NamedStates = {}
        start = 0
        for spec in self.specs:
            columns = packed[:, start : start + spec.row_bytes]
            values = np.ascontiguousarray(columns).view(spec.dtype)
            values = values.reshape(len(rows), *spec.row_shape)
            states[spec.input] = rows_into_axis(values, spec.batch_axis)
            start += spec.row_bytes
        return states

    def scatter(self, states: Mapping[str, np.ndarray]) -> list[bytes]:
        """The graph's state outputs, by *output* name → `[B]` packed rows."""
        return [row.tobytes() for row in self.pack(states)]

    def pack(self, states: Mapping[str, np.ndarray]) -> np.ndarray:
        """As `scatter`, in one piece: bytes `[B, row_bytes]`."""
        columns = []
        for name, dtype, axis in self._outputs:
            values = states[name]
            if axis != 0:
                values = rows_from_axis(values, axis)
            values = np.ascontiguousarray(values, dtype=dtype)
            columns.append(values.reshape(len(values), -1).view(np.uint8))
        return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)

    def norms(self, row: bytes) -> dict[str, float]:
        """Euclidean norm of the finite values of each state of one packed row.

        The overlap of an input may contain NaN.
        """
        return {name: _norm(values) for name, values in self.gather([row]).items()}


def _norm(values: np.ndarray) -> float:
    """At most the largest float64, so never infinite."""
    finite = np.abs(values[np.isfinite(values)].astype(np.float64))
    largest = float(finite.max(initial=0.0))
    if not largest:
        return 0.0
    scaled = float(np.linalg.norm(finite / largest))
    return min(largest * scaled, float(np.finfo(np.float64).max))


def rows_into_axis(values: np.ndarray, axis: int | None) -> np.ndarray:
    """Rows `[B, …]` with B moved to `axis`; None drops it, for one row."""
    if axis is None:
        [values] = values
        return values
    return np.ascontiguousarray(np.moveaxis(values, 0, axis))


def rows_from_axis(values: np.ndarray, axis: int | None) -> np.ndarray:
    """The reverse of `rows_into_axis`."""
    return values[None] if axis is None else np.moveaxis(values, axis, 0)


def _initial_bytes(spec: StateSpec, arrays: Mapping[str, np.ndarray]) -> bytes:
    if spec.initial == "zeros":
        return bytes(spec.row_bytes)
    if spec.initial not in arrays:
        raise BundleError(
            f"state {spec.input!r}: expected its initial array {spec.initial!r} in initial.npz,"
            f" found {sorted(arrays)}: export the bundle again"
        )
    values = arrays[spec.initial]
    if values.shape != spec.row_shape or values.dtype != np.dtype(spec.dtype):
        raise BundleError(
            f"initial array {spec.initial!r}: expected {spec.dtype} {list(spec.row_shape)},"
            f" found {values.dtype} {list(values.shape)}: export the bundle again"
        )
    if not np.isfinite(values.astype(np.float64)).all():
        raise BundleError(
            f"initial array {spec.initial!r}: expected finite values, found infinity or NaN"
        )
    return np.ascontiguousarray(values).tobytes()


def _schema_hash(specs: Sequence[StateSpec], schema: str, initial_row: bytes) -> str:
    """Equal for two models only if a state of one has the same meaning in the other."""
    described = json.dumps([spec.model_dump(mode="json") for spec in specs], sort_keys=True)
    digest = hashlib.blake2b(digest_size=16)
    for part in (described.encode(), schema.encode(), initial_row):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
