"""Which axis of each tensor is that of rows, which that of steps, and how long the others are.

Rule 1: what was chosen is right or refused, never ignored: an option that nothing follows is one
        that was mistyped.
Rule 2: of an input with several free axes nothing is guessed by their order.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from training.foreign.choices import Choices, ImportGraphError, Question
from training.foreign.signature import Signature, Tensor, is_size
from training.foreign.state_names import is_rows, is_time

Shape = list[Any]


@dataclass(slots=True)
class Axes:
    """`shapes`: "batch", "time", a size, or None where that stands open; by input."""

    shapes: dict[str, Shape]
    questions: list[Question] = field(default_factory=list)
    time_key: str = ""
    """What the axis of steps is called, '' without one."""
    is_time_proposed: bool = False
    """By its name, not by a choice of the user."""


def settle_axes(signature: Signature, states: Mapping[str, str], choices: Choices) -> Axes:
    """
    Raises:
        ImportGraphError: a choice that names no axis, or contradicts the graph or another choice.
    """
    inputs = signature.inputs
    _refuse_unknown_axes(inputs, choices)
    times, is_proposed = _times(inputs, states, choices)
    sized = {name: _sized(tensor, choices) for name, tensor in inputs.items()}
    rows = _rows_of_states(inputs, states, choices, sized)
    names = {inputs[name].shape[place] for name, place in rows.items()} - {None}
    axes = Axes({}, time_key=times[0] if times else "", is_time_proposed=is_proposed)
    for name, tensor in inputs.items():
        shape: Shape = sized[name]
        for place in _open(shape):
            if any(tensor.is_called(place, time) for time in times):
                shape[place] = "time"
        if name in states:
            batch = rows.get(name)
        else:
            batch = _rows_of_input(tensor, shape, names, choices, bool(rows) or choices.one_row)
        if batch is None and choices.one_row and shape and shape[0] is None:
            batch = 0
        if name in states and "time" in shape:
            raise ImportGraphError(
                f"--time {axes.time_key}: the state {name} {tensor} has that axis too, but keeps"
                " its size from call to call: say --time with another axis, such as INPUT.NUMBER"
            )
        if batch is not None and name not in choices.constants:
            if shape[batch] is not None:
                other = "--time" if shape[batch] == "time" else "--size"
                raise ImportGraphError(
                    f"{other} and --batch-axis both name axis {batch} of {name} {tensor}: say one"
                )
            shape[batch] = 1 if choices.one_row else "batch"
        axes.shapes[name] = shape
    axes.questions = list(_questions(inputs, states, axes.shapes))
    return axes


def _refuse_unknown_axes(inputs: Mapping[str, Tensor], choices: Choices) -> None:
    for option, keys in (
        ("--size", [*choices.sizes]), ("--time", choices.times),
        ("--batch-axis", [key for key in choices.batch_axes if not key.isdigit()]),
    ):  # fmt: skip
        for key in keys:
            found = [
                (tensor, place)
                for tensor in inputs.values()
                for place in range(len(tensor.shape))
                if tensor.is_called(place, key)
            ]
            if not found:
                raise ImportGraphError(
                    f"{option} {key}: no input has such an axis; the free axes are"
                    f" {_free_axes(inputs)}"
                )
            for tensor, place in found:
                _refuse_fixed(tensor, place, option, key, choices)
    both = sorted(set(choices.times) & set(choices.sizes))
    if both:
        raise ImportGraphError(
            f"--time {both[0]} and --size {both[0]}={choices.sizes[both[0]]}: an axis of steps has"
            " no fixed size: say one of them"
        )


def _refuse_fixed(tensor: Tensor, place: int, option: str, key: str, choices: Choices) -> None:
    fixed = tensor.shape[place]
    if not is_size(fixed) or (option == "--size" and choices.sizes[key] == fixed):
        return
    raise ImportGraphError(
        f"{option} {key}: expected a free axis, found axis {place} of {tensor.name} {tensor}, which"
        f" the graph fixes at {fixed}; leave the option out, or export the graph with a free axis"
    )


def _free_axes(inputs: Mapping[str, Tensor]) -> str:
    found = [
        f"{tensor.name}.{place}"
        + (f" ({tensor.shape[place]})" if isinstance(tensor.shape[place], str) else "")
        for tensor in inputs.values()
        for place in tensor.free
    ]
    return ", ".join(found[:16]) or "none: the graph fixes every size"


def _times(
    inputs: Mapping[str, Tensor], states: Mapping[str, str], choices: Choices
) -> tuple[list[str], bool]:
    """The keys of the axis of steps, and whether they are proposed by name."""
    if choices.times:
        return choices.times, False
    found = {
        tensor.key(place)
        for name, tensor in inputs.items()
        if name not in states and name != choices.length and name not in choices.constants
        for place in tensor.free
        if is_time(tensor.shape[place])
        and tensor.key(place) not in choices.sizes
        and f"{name}.{place}" not in choices.sizes
        and f"{name}.{place}" not in choices.batch_axes
    }
    in_states = {axis for name in states for axis in inputs[name].shape}
    found -= in_states
    return (sorted(found), True) if len(found) == 1 else ([], False)


def _sized(tensor: Tensor, choices: Choices) -> Shape:
    shape: Shape = []
    for place, size in enumerate(tensor.shape):
        given = choices.sizes.get(f"{tensor.name}.{place}")
        if given is None and isinstance(size, str):
            given = choices.sizes.get(size)
        shape.append(size if is_size(size) else given)
    return shape


def _open(shape: Shape) -> list[int]:
    return [place for place, size in enumerate(shape) if size is None]


def _rows_of_states(
    inputs: Mapping[str, Tensor],
    states: Mapping[str, str],
    choices: Choices,
    sized: Mapping[str, Shape],
) -> dict[str, int]:
    """Where rows lie in each state; a state that is missing here takes one row."""
    number = next((int(key) for key in choices.batch_axes if key.isdigit()), None)
    rows = {}
    for name in states:
        tensor, free = inputs[name], _open(sized[name])
        own = _chosen_batch(tensor, choices)
        if own is None and number is not None:
            own = number
            if number >= len(tensor.shape) or number not in free:
                places = ", ".join(map(str, free)) or "none, so leave the option out"
                raise ImportGraphError(
                    f"--batch-axis {number}: expected a free axis of the state {name} {tensor}, of"
                    f" which there are: {places}; say --batch-axis INPUT.NUMBER where they differ"
                )
        if own is None:
            named = [place for place in free if is_rows(tensor.shape[place])]
            own = (named or free)[0] if len(named or free) == 1 else None
        if own is not None:
            rows[name] = own
    return rows


def _chosen_batch(tensor: Tensor, choices: Choices) -> int | None:
    return next(
        (
            place
            for place in range(len(tensor.shape))
            if any(tensor.is_called(place, key) for key in choices.batch_axes if not key.isdigit())
        ),
        None,
    )


def _rows_of_input(
    tensor: Tensor,
    shape: Shape,
    names: set[int | str | None],
    choices: Choices,
    have_rows: bool,
) -> int | None:
    """By choice, by the name that the states' rows have, by its own name, or the only free axis."""
    chosen = _chosen_batch(tensor, choices)
    free = _open(shape)
    if chosen is not None or not have_rows:
        return chosen
    for places in (
        [place for place in free if tensor.shape[place] in names],
        [place for place in free if is_rows(tensor.shape[place])],
        free,
    ):
        if len(places) == 1:
            return places[0]
    return None


def _questions(
    inputs: Mapping[str, Tensor], states: Mapping[str, str], shapes: Mapping[str, Shape]
) -> Iterator[Question]:
    have_rows = any("batch" in shapes[name] for name in states)
    asked: set[str] = set()
    for name, tensor in inputs.items():
        free = _open(shapes[name])
        has_rows = "batch" in shapes[name]
        for place in free:
            key = tensor.key(place)
            if key in asked:
                continue
            asked.add(key)
            what = f"axis {place} of {name} {tensor} is free: how long?"
            if name not in states:
                what += f" or --time {key} if it is the steps"
            if have_rows and not has_rows and len(free) > 1:
                what += f", --batch-axis {name}.{place} if it is the rows"
            yield Question("--size", f"{key}=", "N", what)
