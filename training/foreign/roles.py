"""What each input that is not a state is fed with: what clients send, a constant, or the"
" lengths."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from training.foreign.axes import Axes
from training.foreign.choices import Choices, ImportGraphError, Question
from training.foreign.signature import Signature, Tensor, described
from training.foreign.state_names import is_length

_MAX_CONSTANT_VALUES: Final = 4096


def length_input(
    signature: Signature, states: Mapping[str, str], choices: Choices, axes: Axes
) -> str | None:
    """The input that takes each row's number of steps: chosen, or the only one that can be it.

    Raises:
        ImportGraphError: the chosen one cannot be it.
    """
    inputs = signature.inputs
    takes_steps = any("time" in shape for shape in axes.shapes.values())
    if choices.length is None:
        fit = [
            name for name, tensor in inputs.items()
            if name not in states and name not in choices.constants and takes_steps
            and (name in signature.recurrence.lengths or is_length(name))
            and axes.shapes[name] == ["batch"] and _is_whole(tensor)
        ]  # fmt: skip
        return fit[0] if len(fit) == 1 else None
    name = choices.length
    if name not in inputs:
        raise ImportGraphError(
            f"--length {name}: the graph has no input {name!r}; its inputs are {described(inputs)}"
        )
    for option, values in (("--state", states), ("--constant", choices.constants)):
        if name in values:
            raise ImportGraphError(f"--length {name}: it is said to be a {option[2:]} too: say one")
    if not _is_whole(inputs[name]) or axes.shapes[name] != ["batch"]:
        raise ImportGraphError(
            f"--length {name}: expected whole numbers, one for each row, int64 [batch]; found"
            f" {inputs[name]}; name another input, or leave the option out"
        )
    if not takes_steps:
        raise ImportGraphError(
            f"--length {name}: the graph has no axis of steps, so every row has one: say --time"
            " AXIS if there is one, or leave the option out"
        )
    return name


def role_questions(
    signature: Signature, states: Mapping[str, str], choices: Choices, axes: Axes
) -> Iterator[Question]:
    """Inputs of which nothing says what they are fed with."""
    for name, tensor in signature.inputs.items():
        if name in states or name in choices.constants or name == choices.length:
            continue
        if not tensor.shape:
            what = f"{name!r} is one {tensor.dtype}: which?"
        elif name in signature.recurrence.lengths and all(map(_is_number, axes.shapes[name])):
            what = f"{name!r} is how many steps a call has: how many?"
        else:
            continue
        yield Question("--constant", f"{name}=", "VALUE", what)


def role_of(
    tensor: Tensor, length: str | None, choices: Choices, shape: list[Any]
) -> dict[str, Any]:
    """Its role in the manifest, with what belongs to it."""
    if tensor.name == length:
        return {"role": "length"}
    if tensor.name in choices.constants:
        return {"role": "constant", "value": _constant(tensor, choices, shape)}
    overlap = choices.overlaps.get(tensor.name, choices.overlaps.get("", 0))
    if overlap and not (shape and _is_number(shape[-1]) and shape[-1] > overlap):
        raise ImportGraphError(
            f"--overlap {tensor.name}={overlap}: expected fewer values than the last axis of"
            f" {tensor.name} {tensor} has, and that axis neither the rows nor the steps; give"
            f" fewer, or say --size {tensor.key(len(shape) - 1) if shape else tensor.name}=N first"
        )
    return {"role": "tensor", "overlap": overlap}


def refuse_wrong_roles(signature: Signature, states: Mapping[str, str], choices: Choices) -> None:
    """
    Raises:
        ImportGraphError: an option names no input, or one that is a state.
    """
    inputs = signature.inputs
    sent = [name for name in inputs if name not in states and name not in choices.constants]
    for option, names in (("--constant", choices.constants), ("--overlap", choices.overlaps)):
        for name in [*names]:
            if name and name not in inputs:
                raise ImportGraphError(
                    f"{option} {name}: the graph has no input {name!r}; its inputs are"
                    f" {described(inputs)}"
                )
            if name in states or (option == "--overlap" and name in choices.constants):
                kind = "state" if name in states else "constant"
                raise ImportGraphError(
                    f"{option} {name}: it is a {kind} too: say one of them"
                    + (f", --state {name}= if it is not a state" if kind == "state" else "")
                )
    if "" in choices.overlaps and len(sent) > 1:
        raise ImportGraphError(
            f"--overlap {choices.overlaps['']}: the graph has several inputs, {', '.join(sent)}:"
            " say --overlap INPUT=N"
        )


def _constant(tensor: Tensor, choices: Choices, shape: list[Any]) -> Any:  # noqa: ANN401 -- nested lists
    """The value as the manifest holds it, of the very shape; one number fills any shape."""
    value, name = choices.constants[tensor.name], tensor.name
    if not all(map(_is_number, shape)):
        raise ImportGraphError(
            f"--constant {name}: expected an input of fixed size, found {tensor}, with one value"
            " for each row or step; clients have to send it: leave the option out"
        )
    size = math.prod(shape)
    if size > _MAX_CONSTANT_VALUES:
        raise ImportGraphError(
            f"--constant {name}: {tensor} has {size:,} values: expected at most"
            f" {_MAX_CONSTANT_VALUES}; put it into the graph as an initializer"
        )
    given = np.array(value)
    if given.size not in (1, size):
        raise ImportGraphError(
            f"--constant {name}: expected {size} values for {tensor}, found {given.size}; give"
            f" {size}, with commas between, or one for all"
        )
    with np.errstate(over="ignore"):
        values = np.broadcast_to(given.reshape(shape if given.size == size else ()), shape)
        try:
            exact = np.array(values.tolist(), tensor.dtype)
        except (OverflowError, ValueError):
            exact = None
    if exact is None or not _holds(exact, values):
        raise ImportGraphError(
            f"--constant {name}={value}: expected {tensor.dtype}, which cannot hold this value;"
            " give another one"
        )
    return values.tolist()


def _holds(exact: np.ndarray, values: np.ndarray) -> bool:
    if exact.dtype.kind == "f":
        return bool(np.isfinite(exact).all())
    return bool((exact.astype(np.float64) == values.astype(np.float64)).all())


def _is_whole(tensor: Tensor) -> bool:
    return np.dtype(tensor.dtype).kind in "iu"


def _is_number(axis: object) -> bool:
    return isinstance(axis, int)
