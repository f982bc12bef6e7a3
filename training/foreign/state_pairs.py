"""Which input takes up which output: what was chosen, what the nodes say, what the names say.

Rule 1: nothing that is not certain is paired: an input and an output go together only where neither
        fits another.
Rule 2: a state that was forgotten is asked for. A graph that is served without it would start that
        state from zeros in every call, and no check can see this where a call is one step.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from training.foreign.choices import Choices, ImportGraphError, Question
from training.foreign.recurrence import NodeState
from training.foreign.signature import Signature, Tensor, described, may_be_same
from training.foreign.state_names import is_next, is_signal, is_state

_NOT_ONE = "or --state {0}= if {0!r} is not a state"


@dataclass(frozen=True, slots=True)
class Pairing:
    """`states` are outputs by input; `questions` are what stands open."""

    states: dict[str, str]
    questions: list[Question] = field(default_factory=list)


def pair_states(signature: Signature, choices: Choices) -> Pairing:
    """
    Raises:
        ImportGraphError: a choice that the graph contradicts, or a state that it keeps to itself.
    """
    choices.resolve_states(signature.inputs, signature.outputs)
    _refuse_wrong_choices(signature, choices)
    states = {before: after for before, after in choices.states.items() if after}
    certain = signature.recurrence.certain_pairs()
    for before, after in (*certain.items(), *_named(signature).items()):
        is_said = before in choices.states or before in states or after in states.values()
        if not is_said and _fits(signature, before, after):
            states[before] = after
    states = {name: states[name] for name in signature.inputs if name in states}
    _refuse_hidden_states(signature, states)
    questions = _forgotten(signature, choices, states)
    if not states and not questions:
        questions += _no_states(signature)
    left = [name for name in signature.inputs if name not in states]
    if states and not left and not questions:
        questions.append(
            Question(
                "--state", "", "INPUT=",
                f"no input is left for what clients send: which of {', '.join(states)} is none?",
            )
        )  # fmt: skip
    return Pairing(states, questions)


def _fits(signature: Signature, before: str, after: str) -> bool:
    first = signature.inputs[before]
    return bool(first.shape) and may_be_same(first, signature.outputs[after])


def _named(signature: Signature) -> dict[str, str]:
    """Pairs that fit by name, type and shape, each with no rival."""
    fitting = {
        before: [
            after for after in signature.outputs
            if is_next(before, after) and _fits(signature, before, after)
        ]
        for before in signature.inputs
    }  # fmt: skip
    wanted = [after for afters in fitting.values() for after in afters]
    return {
        before: afters[0]
        for before, afters in fitting.items()
        if len(afters) == 1 and wanted.count(afters[0]) == 1
    }


def _refuse_wrong_choices(signature: Signature, choices: Choices) -> None:
    inputs, outputs = signature.inputs, signature.outputs
    taken: dict[str, str] = {}
    for before, after in choices.states.items():
        if before not in inputs:
            raise ImportGraphError(
                f"--state {before}={after}: the graph has no input {before!r}; its inputs are"
                f" {described(inputs)}"
            )
        if not after:
            continue
        if after not in outputs:
            raise ImportGraphError(
                f"--state {before}={after}: the graph has no output {after!r}; its outputs are"
                f" {described(outputs)}"
            )
        if not may_be_same(inputs[before], outputs[after]):
            fitting = _candidates(signature, inputs[before], taken.values())
            raise ImportGraphError(
                f"--state {before}={after}: expected an output of one type and shape with {before}"
                f" {inputs[before]}, found {outputs[after]}; outputs that fit: {fitting or 'none'}"
            )
        if after in taken:
            raise ImportGraphError(
                f"--state {before}={after}: expected an output of its own for each input, but"
                f" {taken[after]}={after} was said too: say another one"
            )
        taken[after] = before
    for before, after in choices.states.items():
        _refuse_swapped(signature, before, after)


def _refuse_swapped(signature: Signature, before: str, after: str) -> None:
    """`h` and `c` of one LSTM have one shape; where a call is one step nothing else can tell."""
    certain = signature.recurrence.certain_pairs()
    theirs = {end: begin for begin, end in certain.items()}
    if after and before in certain and after in theirs and certain[before] != after:
        raise ImportGraphError(
            f"--state {before}={after}: the graph's nodes say {before}={certain[before]} and"
            f" {theirs[after]}={after}: leave the option out, or swap them"
        )


def _refuse_hidden_states(signature: Signature, states: dict[str, str]) -> None:
    """An LSTM of which the session carries one part while the other starts from zeros each time."""
    by_node: dict[str, list[NodeState]] = {}
    for part in signature.recurrence.states:
        by_node.setdefault(part.node, []).append(part)
    for node, parts in by_node.items():
        if not node.startswith("LSTM"):
            continue
        carried = [part for part in parts if set(part.begins) & set(states)]
        for part in parts:
            if carried and part.is_zero:
                raise ImportGraphError(
                    f"{node} takes its {carried[0].part} from {carried[0].begins[0]!r}, but starts"
                    f" its {part.part} from zeros in every call: export the graph again with"
                    f" {part.part} as an input and an output as well"
                )


def _forgotten(signature: Signature, choices: Choices, states: dict[str, str]) -> list[Question]:
    """Inputs that look as a state does, of which nothing was said."""
    left = [name for name in signature.inputs if name not in states and name not in choices.states]
    left = [name for name in left if name not in choices.constants and name != choices.length]
    begun = {name: part for part in signature.recurrence.states for name in part.begins}
    questions: list[Question] = []
    for name in left:
        tensor = signature.inputs[name]
        candidates = _candidates(signature, tensor, states.values())
        value = candidates if "," not in candidates and candidates else "OUTPUT"
        if name in begun:
            part = begun[name]
            if not candidates:
                raise ImportGraphError(
                    f"{name!r} is where {part.node} begins its {part.part}, but no output of type"
                    f" and shape {tensor} ends it: export the graph again with that output,"
                    f" {_NOT_ONE.format(name)}"
                )
            what = f"{name!r} is where {part.node} begins its {part.part}"
        elif candidates and tensor.shape and _looks_forgotten(signature, name, states, left):
            what = f"{name!r} looks like a state"
        else:
            continue
        questions.append(
            Question(
                "--state", f"{name}=", value,
                f"{what}: which output follows it? one of {candidates}, {_NOT_ONE.format(name)}",
            )
        )  # fmt: skip
    return questions


def _looks_forgotten(
    signature: Signature, name: str, states: dict[str, str], left: list[str]
) -> bool:
    """By its name; or as a state that was paired looks (the `c` of an `h`), beside other inputs."""
    if is_state(name):
        return True
    tensor = signature.inputs[name]
    alike = any(
        tensor.type == other.type and tensor.shape == other.shape
        for other in (signature.inputs[state] for state in states)
    )
    others = [other for other in left if signature.inputs[other].shape]
    return alike and len(others) > 1 and not is_signal(name)


def _candidates(signature: Signature, tensor: Tensor, taken: Collection[str]) -> str:
    found = [
        name
        for name, output in signature.outputs.items()
        if name not in taken and may_be_same(tensor, output)
    ]
    return ", ".join(found[:8])


def _no_states(signature: Signature) -> list[Question]:
    hidden = [part.node for part in signature.recurrence.states if part.is_zero]
    shown = f"inputs {described(signature.inputs)}; outputs {described(signature.outputs)}"
    if hidden:
        raise ImportGraphError(
            f"{hidden[0]} starts from zeros in every call: no input of the graph carries its state;"
            f" export the graph again with the state as an input and as an output ({shown})"
        )
    fitting = {
        name: _candidates(signature, tensor, ())
        for name, tensor in signature.inputs.items()
        if tensor.shape
    }
    found = {name: afters for name, afters in fitting.items() if afters}
    if not found:
        raise ImportGraphError(
            "no input has the type and shape of an output, so the graph has no state to carry:"
            f" export a recurrent graph with its state as an input and as an output ({shown})"
        )
    alone = [name for name, afters in found.items() if list(found.values()).count(afters) == 1]
    if alone == [*found] and len(alone) < len(signature.inputs):
        return [
            Question("--state", f"{name}=", afters if "," not in afters else "OUTPUT",
                     f"{name} {signature.inputs[name]} may be the state that {afters} gives")
            for name, afters in found.items()
        ]  # fmt: skip
    return [
        Question(
            "--state", "", "INPUT=OUTPUT",
            f"which input carries what which output gives? {shown}",
        )
    ]  # fmt: skip
