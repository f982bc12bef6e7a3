"""Looks at an ONNX graph from elsewhere and works out how it is to be fed.

Rule 1: what is not certain is asked, never guessed (see `state_pairs` and `axes`).
Rule 2: which axes of the outputs are rows and steps is seen from trial calls of several sizes.
Rule 3: a graph that the service could not feed is refused here, with the option that helps.
"""

import math
import re
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from service.contract.calls import Arrays, Run
from service.contract.graph import GraphSpec
from training.foreign.axes import Axes, settle_axes
from training.foreign.choices import Choices, GraphCallError, ImportGraphError, Question
from training.foreign.roles import length_input, refuse_wrong_roles, role_of, role_questions
from training.foreign.signature import Signature, Tensor
from training.foreign.state_pairs import pair_states

_TRIALS: Final = ((2, 2), (3, 2), (2, 3))
"""Rows and steps."""
_NAME: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_MAX_ROW_BYTES: Final = 16 * 2**20
"""Of one observation, one answer, or one session's states: what checks can hold many times."""


class Inspection:
    """One graph, with the choices that were made for it so far."""

    def __init__(self, signature: Signature, run: Run, choices: Choices) -> None:
        """
        Raises:
            ImportGraphError: a choice that the graph contradicts, or a graph without state.
        """
        self._signature = signature
        self._run = run
        self._choices = choices
        for tensor in (*signature.inputs.values(), *signature.outputs.values()):
            _require_name(tensor)
        pairing = pair_states(signature, choices)
        self.states = pairing.states
        refuse_wrong_roles(signature, self.states, choices)
        self._axes = settle_axes(signature, self.states, choices)
        self.length = length_input(signature, self.states, choices, self._axes)
        self._questions = [
            *pairing.questions,
            *role_questions(signature, self.states, choices, self._axes),
            *(self._axes.questions if self.states else ()),  # rows are known by the states
        ]

    def questions(self) -> list[Question]:
        """What must be said before the graph can be fed."""
        return self._questions

    @property
    def proposed_time(self) -> str:
        """The axis that was taken as the steps by its name; '' where it was chosen, or is none."""
        return self._axes.time_key if self._axes.is_time_proposed else ""

    @property
    def step_hint(self) -> str:
        """What to say where steps one by one give something else than all of them at once."""
        key, backward = self._axes.time_key, self._signature.recurrence.backward
        if key and backward:
            return (
                f"{backward[0]} reads the steps backwards too, so a step's answer depends on later"
                f" ones; say --size {key}=N: N steps are then one observation"
            )
        return f"--size {key}=N if {key} is not the axis of steps" if key else ""

    def graph_spec(self, name: str) -> GraphSpec:
        """How the graph is fed. There must be no questions left.

        Raises:
            ImportGraphError: trial calls failed, or the service cannot feed such a graph.
        """
        signature, shapes = self._signature, self._axes.shapes
        inputs: list[dict[str, Any]] = [
            {"name": each.name, "dtype": each.dtype, "shape": shapes[each.name],
             **role_of(each, self.length, self._choices, shapes[each.name])}
            for each in signature.inputs.values() if each.name not in self.states
        ]  # fmt: skip
        _require_small("one observation", [each for each in inputs if each["role"] == "tensor"])
        states = [
            {"input": before, "output": after, "dtype": signature.inputs[before].dtype,
             "shape": shapes[before]}
            for before, after in self.states.items()
        ]  # fmt: skip
        _require_small("the state of one session", states)
        seen = self._output_shapes(inputs)
        outputs = [
            {"name": output, "dtype": each.dtype, "shape": seen[output], "role": "value"}
            for output, each in signature.outputs.items()
            if output not in self.states.values()
        ]
        _require_small("one answer", outputs)
        if not outputs:
            raise ImportGraphError(
                "every output is a state, so nothing would be answered: export the graph with"
                " what it answers as an output of its own"
            )
        self._require_axes_in_all(inputs, outputs)
        try:
            spec = GraphSpec.model_validate(
                {"file": "model.onnx", "inputs": inputs, "outputs": outputs, "states": states,
                 "state_schema": name}
            )  # fmt: skip
            spec.require_foreign()
        except ValidationError as error:
            told = "; ".join(each["msg"] for each in error.errors()[:3])
            raise ImportGraphError(f"the graph cannot be served: {told}") from None
        except ValueError as error:
            raise ImportGraphError(f"the graph cannot be served: {error}") from None
        return spec

    def _output_shapes(self, inputs: list[dict[str, Any]]) -> dict[str, list[Any]]:
        """Each output's shape, seen from calls with several numbers of rows and of steps."""
        seen = [self._trial(inputs, *sizes) for sizes in _TRIALS]
        shapes = {}
        for name in self._signature.outputs:
            sizes = [list(trial[name].shape) for trial in seen]
            shape: list[Any] = list(sizes[0])
            if len({len(each) for each in sizes}) == 1:
                for axis, (base, rows, steps) in enumerate(zip(*sizes, strict=True)):
                    if rows != base:
                        shape[axis] = "batch"
                    elif steps != base:
                        shape[axis] = "time"
            expected = [_concrete(shape, *trial) for trial in _TRIALS]
            if expected != sizes or 0 in shape:
                self._refuse_output(name, sizes)
            shapes[name] = shape
        self._require_states_keep_their_shape(shapes)
        return shapes

    def _refuse_output(self, name: str, sizes: list[list[int]]) -> None:
        found = ", ".join(
            f"{size} for {rows} rows of {steps} steps"
            for size, (rows, steps) in zip(sizes, _TRIALS, strict=True)
        )
        raise ImportGraphError(
            f"output {name!r} is {found}: expected one axis of rows and one of steps, and every"
            f" other size fixed{self._other_axes()}; or export it with these axes apart"
        )

    def _require_states_keep_their_shape(self, shapes: dict[str, list[Any]]) -> None:
        for before, after in self.states.items():
            if shapes[after] != self._axes.shapes[before]:
                raise ImportGraphError(
                    f"the state {before!r} goes in as {_shown(self._axes.shapes[before])} and comes"
                    f" out of {after!r} as {_shown(shapes[after])}: expected the same shape,"
                    " since a session's state has one size (a cache that grows with each call"
                    f" cannot be served); say --state {before}=OUTPUT with another output, or"
                    " --batch-axis INPUT.NUMBER if another axis is the rows"
                )

    def _require_axes_in_all(
        self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]
    ) -> None:
        """Rows and steps are in every tensor, or in none: the service feeds them together."""
        moving = [*(each for each in inputs if each["role"] == "tensor"), *outputs]
        states = [{"name": name, "shape": self._axes.shapes[name]} for name in self.states]
        if not any(each["role"] == "tensor" for each in inputs):
            raise ImportGraphError(
                "no input is left for what clients send: say --state INPUT= for one that is not a"
                " state, or export the graph with an input"
            )
        for axis, specs, remedy in (
            ("batch", [*moving, *states], "--one-row: a call then takes one row"),
            ("time", moving, f"--size {self._axes.time_key}=1: a call then takes one step"),
        ):
            without = [each for each in specs if axis not in each["shape"]]
            if without and len(without) < len(specs):
                each, what = without[0], {"batch": "rows", "time": "steps"}[axis]
                if any(each is spec for spec in inputs) and _is_fixed(each["shape"]):
                    remedy = (
                        f"--constant {each['name']}=VALUE,… if it stays the same (weights belong"
                        f" into the graph, as initializers), or {remedy}"
                    )
                raise ImportGraphError(
                    f"{each['name']!r} {_shown(each['shape'])} has no axis of {what}, others have"
                    f" one: expected it in every tensor, or in none; say {remedy}"
                )

    def _trial(self, inputs: list[dict[str, Any]], num_rows: int, num_steps: int) -> Arrays:
        feeds = {}
        for spec in inputs:
            if spec["role"] == "constant":
                feeds[spec["name"]] = np.array(spec["value"], spec["dtype"])
                continue
            fill = num_steps if spec["role"] == "length" else 0
            size = _concrete(spec["shape"], num_rows, num_steps)
            feeds[spec["name"]] = np.full(size, fill, spec["dtype"])
        for name in self.states:
            size = _concrete(self._axes.shapes[name], num_rows, num_steps)
            feeds[name] = np.zeros(size, self._signature.inputs[name].dtype)
        try:
            return self._run(feeds)
        except GraphCallError as error:
            raise ImportGraphError(f"{error}{self._other_axes()}") from None

    def _other_axes(self) -> str:
        """What to say if rows and steps lie elsewhere than it was assumed."""
        axes: Axes = self._axes
        hints = []
        if axes.time_key:
            hints.append(f"--size {axes.time_key}=N if that axis is not the steps")
        if any("batch" in shape for shape in axes.shapes.values()):
            hints.append("--one-row if a call takes one row only")
        hints += [f"another --size than {key}={n}" for key, n in self._choices.sizes.items()]
        hints += ["--batch-axis INPUT.NUMBER if other axes are the rows"] if not hints else []
        return f"; say {', '.join(hints[:4])}"


def _concrete(shape: list[Any], num_rows: int, num_steps: int) -> list[int]:
    sizes = {"batch": num_rows, "time": num_steps}
    return [sizes.get(axis, axis) for axis in shape]


def _is_fixed(shape: list[Any]) -> bool:
    return all(isinstance(axis, int) for axis in shape)


def _shown(shape: list[Any]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _require_name(tensor: Tensor) -> None:
    if not _NAME.fullmatch(tensor.name):
        raise ImportGraphError(
            f"{tensor.name[:200]!r} is the name of an input or output: expected up to 128 letters,"
            " digits and _ . : / -, which clients can send; export it with another"
            " one (input_names and output_names of torch.onnx.export)"
        )


def _require_small(what: str, specs: list[dict[str, Any]]) -> None:
    num_bytes = sum(
        math.prod(axis for axis in spec["shape"] if isinstance(axis, int))
        * np.dtype(spec["dtype"]).itemsize
        for spec in specs
    )
    if num_bytes > _MAX_ROW_BYTES:
        raise ImportGraphError(
            f"{what} has {num_bytes:,} bytes: expected at most {_MAX_ROW_BYTES:,}; use a smaller"
            " --size, or a smaller model"
        )
