"""One recurrent layer, and a stack of them behind one packed state.

Axis legend: B rows, T steps, F features, H hidden, S state size.

Rule 1: a layer is `(x[B,T,F], length[B], state[B,S]) → (y[B,T,H], state[B,S])`; one step is T = 1.
Rule 2: outputs past a row's length mean nothing; its state is that of its last valid step.
Rule 3: only the stack knows about rows of length 0: it gives their state back untouched, because
        ONNX Runtime answers them with zeros.
Rule 4: a module of this package that defines `LAYER` is a cell, and its file name is its `kind`:
        adding one is adding a file.
Rule 5: a state is finite from the start on. What has no value yet (a running maximum) starts at
        `LOWEST`, never at −inf, whose difference with itself is NaN.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar, Final, TypeVar

import torch
from torch import Tensor, nn

import training.cells
from training.config import CellConfig, Section, parse_section
from training.errors import RecipeError

StateT = TypeVar("StateT", Tensor, tuple[Tensor, Tensor])
OnnxValue = Any
"""A value while onnxscript traces a translation; it has no static type that would say more."""
Translations = dict[Callable[..., Any], Callable[..., Any]]
"""torch operator → function that writes it as ONNX nodes (`custom_translation_table`)."""
LOWEST: Final = -1e30
"""Below every score, and finite: `exp(LOWEST - score)` is 0, `LOWEST - LOWEST` is 0."""


class RecurrentLayer(nn.Module, ABC):
    """One layer of a kind. Weights belong to the layer, state to the caller."""

    Options: ClassVar[type[Section]] = Section
    """What `[cell.options]` of a recipe may say about this kind."""
    translations: ClassVar[Translations] = {}

    def __init__(self, input_size: int, hidden_size: int, options: Section | None = None) -> None:
        """`options` is an instance of `Options`, or None for its defaults."""
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size

    @property
    @abstractmethod
    def state_size(self) -> int:
        """Numbers carried for one row."""

    def initial_state(self) -> Tensor:
        """`[S]`: where a row starts."""
        return torch.zeros(self.state_size)

    @abstractmethod
    def forward(self, x: Tensor, length: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run T steps. `length` None says that every row is full: the fast path of training."""

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: `x[B,F]`, `state[B,S]` → `y[B,H]`, `state[B,S]`."""
        y, state = self(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def prepare_export(self) -> None:
        """Lay the weights out as the exported operator wants them, once, outside the graph."""


class RecurrentStack(nn.Module):
    """Layers on top of each other; their states lie side by side in `state[B, S]`."""

    def __init__(self, config: CellConfig, input_size: int) -> None:
        super().__init__()
        layer = find_layer(config.kind)
        options = parse_section(layer.Options, config.options, f"[cell.options] of {config.kind!r}")
        sizes = [input_size] + [config.hidden_size] * config.num_layers
        self.layers = nn.ModuleList(
            [layer(inputs, hidden, options) for inputs, hidden in pairwise(sizes)]
        )
        self.is_residual = config.residual
        self.dropout = nn.Dropout(config.dropout)
        self.output_size = config.hidden_size
        self.state_sizes = [self._layer(i).state_size for i in range(config.num_layers)]
        self.state_size = sum(self.state_sizes)

    def forward(
        self, x: Tensor, length: Tensor | None, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`x[B,T,F]` → `y[B,T,H]` and the state `[B,S]` after each row's last valid step."""
        if state is None:
            state = self.initial_state().to(x).expand(x.shape[0], -1)
        states = []
        for index, before in enumerate(torch.split(state, self.state_sizes, dim=1)):
            below = x
            x, after = self._layer(index)(x if index == 0 else self.dropout(x), length, before)
            if self.is_residual and index > 0:
                x = x + below
            states.append(after)
        new_state = torch.cat(states, dim=1)
        if length is not None:
            new_state = torch.where((length == 0).unsqueeze(1), state, new_state)
        return x, new_state

    def initial_state(self) -> Tensor:
        """`[S]`: the layers' initial states side by side."""
        return torch.cat([self._layer(i).initial_state() for i in range(len(self.layers))])

    def prepare_export(self) -> None:
        for index in range(len(self.layers)):
            self._layer(index).prepare_export()

    @property
    def translations(self) -> Translations:
        return type(self._layer(0)).translations

    def _layer(self, index: int) -> RecurrentLayer:
        layer = self.layers[index]
        assert isinstance(layer, RecurrentLayer)
        return layer


def find_layer(kind: str) -> type[RecurrentLayer]:
    """The layer class of `kind`.

    Raises:
        RecipeError: no module of this package has that name and defines `LAYER`.
    """
    known = cell_kinds()
    if kind not in known:
        raise RecipeError(f"cell.kind is {kind!r}; expected one of {', '.join(known)}")
    layer: type[RecurrentLayer] = importlib.import_module(f"training.cells.{kind}").LAYER
    return layer


def cell_kinds() -> list[str]:
    names = sorted(module.name for module in pkgutil.iter_modules(training.cells.__path__))
    return [
        name
        for name in names
        if name != "base" and hasattr(importlib.import_module(f"training.cells.{name}"), "LAYER")
    ]


def run_ragged(
    module: nn.RNNBase, x: Tensor, length: Tensor, state: StateT
) -> tuple[Tensor, StateT]:
    """Run one of torch's fused recurrences over rows of unlike length (eager mode only).

    Rows of length 0 are run for one step, which the stack then throws away.
    """
    packed = nn.utils.rnn.pack_padded_sequence(
        x, length.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
    )
    packed_y, state = module(packed, state)
    y, _ = nn.utils.rnn.pad_packed_sequence(packed_y, batch_first=True, total_length=x.shape[1])
    return y, state
