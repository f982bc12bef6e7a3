"""Looks at an ONNX graph from elsewhere and works out how it is to be fed.

Rule 1: what is not certain is asked, never guessed: states are proposed only where exactly one
        output fits by name, type and shape.
Rule 2: which axes of the outputs are rows and steps is seen from trial calls of several sizes.
"""

from typing import Any

import numpy as np

from service.contract.graph import GraphSpec
from service.contract.tensors import ONNX_TYPES
from training.foreign.choices import Choices, ImportGraphError, Question
from training.ort import ort

_DTYPES = {onnx: dtype for dtype, onnx in ONNX_TYPES.items()}
_NEXT = ("n", "_n", "_out", "_next", "_new", "out", "_o")
_BEFORE = ("_in", "_prev", "_old", "in", "0", "_0", "_i")
_TRIALS = ((2, 2), (3, 2), (2, 3))
"""Rows and steps."""

Shape = tuple[Any, ...]


class Inspection:
    """One graph, with the choices that were made for it so far."""

    def __init__(self, graph: bytes, choices: Choices) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(graph, options, ["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises many classes of its own for a bad graph
            raise ImportGraphError(
                f"ONNX Runtime cannot load the graph: {str(error).strip().splitlines()[0]}"
            ) from None
        self._inputs = {arg.name: arg for arg in self._session.get_inputs()}
        self._outputs = {arg.name: arg for arg in self._session.get_outputs()}
        for arg in (*self._inputs.values(), *self._outputs.values()):
            if arg.type not in _DTYPES:
                raise ImportGraphError(
                    f"{arg.name!r} is {arg.type}: expected one of {sorted(_DTYPES)}"
                )
        self._choices = choices
        self.states = {**self._proposed_states(), **choices.states}
        self._refuse_unknown()

    def questions(self) -> list[Question]:
        """What must be said before the graph can be fed."""
        chosen, asked = self._choices, []
        if not self.states:
            asked.append(
                Question(
                    "--state", "",
                    f"which input carries what which output gives? inputs {self._described(True)},"
                    f" outputs {self._described(False)}",
                )
            )  # fmt: skip
        for name, arg in self._inputs.items():
            if name in self.states or name == chosen.length:
                continue
            if not arg.shape and name not in chosen.constants:
                asked.append(
                    Question("--constant", name, f"{name!r} is one {_DTYPES[arg.type]}: which?")
                )
        for name, axes in self._free_axes().items():
            for place, axis in axes:
                key = axis or f"{name}.{place}"
                if all(question.key != key for question in asked):
                    asked.append(
                        Question("--size", key, f"axis {place} of {name!r} is free: how long?")
                    )
        return asked

    def graph_spec(self, name: str) -> GraphSpec:
        """How the graph is fed. There must be no questions left.

        Raises:
            ImportGraphError: trial calls failed, or do not tell rows and steps apart.
        """
        chosen = self._choices
        inputs = [
            {"name": arg.name, "dtype": _DTYPES[arg.type], "shape": self._shape(arg),
             **self._role(arg)}
            for arg in self._inputs.values() if arg.name not in self.states
        ]  # fmt: skip
        shapes = self._output_shapes()
        states = [
            {"input": before, "output": after, "dtype": _DTYPES[self._inputs[before].type],
             "shape": self._shape(self._inputs[before])}
            for before, after in self.states.items()
        ]  # fmt: skip
        outputs = [
            {"name": output, "dtype": _DTYPES[arg.type], "shape": shapes[output], "role": "value"}
            for output, arg in self._outputs.items()
            if output not in self.states.values()
        ]
        if not outputs:
            raise ImportGraphError("every output is a state: nothing would be answered")
        try:
            return GraphSpec.model_validate(
                {"file": "model.onnx", "inputs": inputs, "outputs": outputs, "states": states,
                 "state_schema": name}
            )  # fmt: skip
        except ValueError as error:
            raise ImportGraphError(f"the graph cannot be served: {error}; {chosen}") from None

    def _proposed_states(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for before, arg in self._inputs.items():
            fitting = [
                after
                for after, other in self._outputs.items()
                if other.type == arg.type and arg.shape and _may_be_same(arg.shape, other.shape)
                and _is_next(before, after)
            ]  # fmt: skip
            if len(fitting) == 1 and fitting[0] not in found.values():
                found[before] = fitting[0]
        return found

    def _refuse_unknown(self) -> None:
        chosen = self._choices
        named: dict[str, set[str]] = {
            "--state": {*self.states}, "--constant": {*chosen.constants},
            "--overlap": {*chosen.overlaps} - {""},
            "--length": {chosen.length} if chosen.length else set(),
        }  # fmt: skip
        for option, names in named.items():
            if strange := sorted(names - set(self._inputs)):
                raise ImportGraphError(
                    f"{option} {strange}: the graph's inputs are {self._described(True)}"
                )
        if strange := sorted(set(self.states.values()) - set(self._outputs)):
            raise ImportGraphError(
                f"--state …:{strange}: the graph's outputs are {self._described(False)}"
            )

        for before, after in self.states.items():
            first, second = self._inputs[before], self._outputs[after]
            if first.type != second.type or not _may_be_same(first.shape, second.shape):
                raise ImportGraphError(
                    f"--state {before}:{after}: {first.type} {first.shape} cannot carry"
                    f" {second.type} {second.shape}: pair states of one type and shape"
                )

    def _described(self, is_input: bool) -> dict[str, str]:
        args = self._inputs if is_input else self._outputs
        return {name: f"{_DTYPES[arg.type]} {arg.shape}" for name, arg in args.items()}

    def _batch_axis(self, arg: ort.NodeArg) -> int | None:
        """Where rows lie, in a state or an input; None: it takes one row."""
        chosen, free = self._choices, [n for n, d in enumerate(arg.shape) if not _is_size(d)]
        if chosen.one_row:
            return None
        if arg.name in self.states:
            if chosen.batch_axis is not None:
                return chosen.batch_axis
            return free[0] if len(free) == 1 else None
        batches = [self._batch_axis(self._inputs[state]) for state in self.states]
        if None in batches or arg.name in chosen.constants:
            return None
        names = [
            self._inputs[state].shape[axis]
            for state, axis in zip(self.states, batches, strict=True)
        ]
        same = [n for n in free if isinstance(arg.shape[n], str) and arg.shape[n] in names]
        return same[0] if same else (0 if 0 in free else None)

    def _shape(self, arg: ort.NodeArg) -> list[Any]:
        chosen, batch = self._choices, self._batch_axis(arg)
        shape: list[Any] = []
        for place, size in enumerate(arg.shape):
            key = f"{arg.name}.{place}"
            given = chosen.sizes.get(key, chosen.sizes.get(str(size)))
            if place == batch:
                shape.append("batch")
            elif chosen.time is not None and chosen.time in (size, key):
                shape.append("time")
            elif given is not None or _is_size(size):
                shape.append(given or size)
            else:
                shape.append(1 if chosen.one_row and place == 0 else None)
        return shape

    def _free_axes(self) -> dict[str, list[tuple[int, str | None]]]:
        free = {}
        for arg in self._inputs.values():
            shape = self._shape(arg)
            free[arg.name] = [
                (place, arg.shape[place] if isinstance(arg.shape[place], str) else None)
                for place, size in enumerate(shape)
                if size is None
            ]
        return free

    def _role(self, arg: ort.NodeArg) -> dict[str, Any]:
        chosen = self._choices
        if arg.name == chosen.length:
            return {"role": "length"}
        if arg.name in chosen.constants:
            return {"role": "constant", "value": chosen.constants[arg.name]}
        overlap = chosen.overlaps.get(arg.name, chosen.overlaps.get("", 0))
        return {"role": "tensor", "overlap": overlap}

    def _output_shapes(self) -> dict[str, list[Any]]:
        """Each output's shape, seen from calls with several numbers of rows and of steps."""
        seen = [self._trial(*sizes) for sizes in _TRIALS]
        shapes = {}
        for name in self._outputs:
            base, rows, steps = (trial[name].shape for trial in seen)
            shape: list[Any] = list(base)
            for axis in range(len(base)):
                if rows[axis] != base[axis]:
                    shape[axis] = "batch"
                elif steps[axis] != base[axis]:
                    shape[axis] = "time"
            shapes[name] = shape
        return shapes

    def _trial(self, num_rows: int, num_steps: int) -> dict[str, np.ndarray]:
        sizes, chosen = {"batch": num_rows, "time": num_steps}, self._choices
        feeds = {}
        for arg in self._inputs.values():
            dtype = _DTYPES[arg.type]
            if arg.name in chosen.constants:
                feeds[arg.name] = np.array(chosen.constants[arg.name], dtype)
                continue
            shape = [sizes.get(size, size) for size in self._shape(arg)]
            fill = num_steps if arg.name == chosen.length else 0
            feeds[arg.name] = np.full(shape, fill, dtype)
        names = list(self._outputs)
        try:
            return dict(zip(names, self._session.run(names, feeds), strict=True))
        except Exception as error:  # ONNX Runtime raises many classes of its own
            fed = {name: list(value.shape) for name, value in feeds.items()}
            raise ImportGraphError(
                f"a trial call with {fed} failed: {str(error).strip().splitlines()[0][:300]};"
                " if the graph takes one row only, say --one-row"
            ) from None


def _is_size(axis: object) -> bool:
    return isinstance(axis, int) and axis > 0


def _may_be_same(first: Shape, second: Shape) -> bool:
    return len(first) == len(second) and all(
        a == b or not (_is_size(a) and _is_size(b)) for a, b in zip(first, second, strict=True)
    )


def _is_next(before: str, after: str) -> bool:
    """Whether an output's name says that it is what follows an input."""
    before, after = before.lower(), after.lower()
    stems = {before} | {before.removesuffix(end) for end in _BEFORE if before.endswith(end)}
    fits = {stem + end for stem in stems for end in _NEXT}
    fits |= {f"{start}{stem}" for stem in stems for start in ("next_", "new_", "out_", "output_")}
    return after in fits
