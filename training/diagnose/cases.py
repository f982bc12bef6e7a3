"""The cells and starts that a diagnosis compares, each with what it is there to show."""

from dataclasses import dataclass, field
from typing import Any, Final

from training.cells.base import RecurrentLayer, cell_kinds, find_layer
from training.config import parse_section
from training.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of cell from a certain start."""

    name: str
    kind: str
    shows: str
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, input_size: int, hidden_size: int) -> RecurrentLayer:
        layer = find_layer(self.kind)
        options = parse_section(layer.Options, self.options, f"[cell.options] of {self.name!r}")
        return layer(input_size, hidden_size, options)


CASES: Final = {
    case.name: case
    for case in (
        Case("tanh RNN", "rnn", "its slope is at most 1 and W_hh is small"),
        Case(
            "sigmoid RNN",
            "rnn",
            "its slope is at most 1/4, so that a step back costs four times as much",
            {"activation": "sigmoid"},
        ),
        Case(
            "ReLU RNN, radius 1",
            "rnn",
            "half of its units are off at any step, so radius 1 is not enough for a Gaussian start",
            {"activation": "relu", "radius": 1.0},
        ),
        Case(
            "ReLU RNN, radius 2",
            "rnn",
            "nothing bounds a ReLU, states and gradients grow from step to step",
            {"activation": "relu", "radius": 2.0},
        ),
        Case(
            "IRNN", "irnn", "what goes in comes back nearly unchanged: W_hh starts as the identity"
        ),
        Case(
            "IRNN × 1.2",
            "irnn",
            "a fifth above the identity, and it grows by about as much a step",
            {"scale": 1.2},
        ),
        Case(
            "LSTM, forget bias 0",
            "lstm",
            "a half-open forget gate lets it leak away at every step",
            {"forget_bias": 0.0},
        ),
        Case(
            "LSTM, forget bias 5",
            "lstm",
            "the gate starts open: why a high bias helps with long dependencies",
            {"forget_bias": 5.0},
        ),
        Case("GRU", "gru", "a half-open update gate leaks too, before training"),
        Case(
            "GRU, update bias 5",
            "gru",
            "the same gate, started open",
            {"update_bias": 5.0},
        ),
    )
}


def find_cases(names: list[str]) -> list[Case]:
    """The named cases, or kinds of cells with their defaults; all cases for no name.

    Raises:
        RecipeError: neither a case nor a cell.
    """
    plain = "as a recipe without options starts it"
    known = CASES | {kind: Case(kind, kind, plain) for kind in cell_kinds()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RecipeError(f"no case {unknown[0]!r}; expected one of {'; '.join(known)}")
    return [known[name] for name in names] or list(CASES.values())
