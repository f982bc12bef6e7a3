"""The ONNX graph of a bundle: inputs, outputs, and the states carried between two calls.

A trained graph is `[batch, time, …]` and has an input for the length of each row. An imported one
(task `tensor`) may take one row, or one observation, at a time.
"""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.contract.state import StateSpec
from service.contract.tensors import InputRole, InputSpec, OutputRole, OutputSpec

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]

_FED_BY_STEP = ("x", "tokens", "tensor")


class GraphSpec(BaseModel):
    """The ONNX graph: inputs and outputs that are not state, and the states between them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: FileName
    inputs: tuple[InputSpec, ...] = Field(min_length=1)
    outputs: tuple[OutputSpec, ...] = Field(min_length=1)
    states: tuple[StateSpec, ...] = Field(min_length=1)
    state_schema: str = Field(min_length=1, max_length=200)

    @model_validator(mode="after")
    def _every_name_once(self) -> Self:
        fed = [spec.name for spec in self.inputs] + [state.input for state in self.carried]
        answered = [spec.name for spec in self.outputs] + [state.output for state in self.carried]
        for names, what in ((fed, "inputs"), (answered, "outputs")):
            if len(set(names)) != len(names):
                raise ValueError(
                    f"expected distinct names of the graph's {what}, found {sorted(names)}"
                )
        return self

    @model_validator(mode="after")
    def _constants_are_of_one_size(self) -> Self:
        for spec in self.inputs:
            if spec.role == "constant" and not all(isinstance(axis, int) for axis in spec.shape):
                raise ValueError(f"constant {spec.name!r}: expected a number for every axis")
        return self

    @property
    def carried(self) -> tuple[StateSpec, ...]:
        """All that a session carries: the graph's states, and the ends of inputs with overlap."""
        return (*self.states, *(_overlap_state(spec) for spec in self.inputs if spec.overlap))

    @property
    def tensors(self) -> tuple[InputSpec, ...]:
        """The inputs that clients send by name."""
        return tuple(spec for spec in self.inputs if spec.role == "tensor")

    @property
    def constants(self) -> tuple[InputSpec, ...]:
        return tuple(spec for spec in self.inputs if spec.role == "constant")

    @property
    def takes_rows(self) -> bool:
        """False for a graph that takes one row at a time."""
        return all("batch" in state.shape for state in self.states)

    @property
    def takes_steps(self) -> bool:
        """False for a graph that takes one observation at a time."""
        return all("time" in spec.shape for spec in self.inputs if spec.role in _FED_BY_STEP)

    def input_with(self, role: InputRole) -> InputSpec | None:
        return next((spec for spec in self.inputs if spec.role == role), None)

    def output_with(self, role: OutputRole) -> OutputSpec | None:
        return next((spec for spec in self.outputs if spec.role == role), None)

    def require_foreign(self) -> None:
        """Raise ValueError unless the service can feed this graph with tensors by name.

        The axis of rows must be in every tensor or in none; likewise that of steps.
        """
        specs: list[InputSpec | OutputSpec] = [*self.inputs, *self.outputs]
        for spec in specs:
            if spec.role not in ("tensor", "constant", "length", "value"):
                raise ValueError(f"{spec.name!r}: task 'tensor' has no role {spec.role!r}")
        moving = [spec.shape for spec in (*self.tensors, *self.outputs)]
        of_rows = [*moving, *(state.shape for state in self.states)]
        for axis, shapes in (("batch", of_rows), ("time", moving)):
            if {shape.count(axis) for shape in shapes} not in ({0}, {1}):
                raise ValueError(f'expected one "{axis}" axis in every tensor, or in none')
        length = self.input_with("length")
        if length and (length.shape != ("batch",) or not (self.takes_rows and self.takes_steps)):
            raise ValueError(
                "expected a length of shape [batch], in a graph with axes of rows and steps"
            )


def _overlap_state(spec: InputSpec) -> StateSpec:
    """The state of the last `overlap` values of an input."""
    shape = [axis for axis in spec.shape if axis != "time"]
    name = overlap_name(spec)
    return StateSpec(input=name, output=name, dtype=spec.dtype, shape=(*shape[:-1], spec.overlap))


def overlap_name(spec: InputSpec) -> str:
    """The name of that state."""
    return f"overlap:{spec.name}"
