"""What networks share whose state is that of one recurrent stack: a head reads what the stack says.

Axis legend: B rows, T steps, C what a step says one of, S state size.
"""

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from training.cells.base import RecurrentStack, Translations
from training.config import CellConfig
from training.tasks.base import Batch, SequenceLoss, StreamNetwork


class StackNetwork(StreamNetwork):
    """Inputs → what the stack reads (each network's own) → stack → dropout → head."""

    def __init__(
        self, cell: CellConfig, input_size: int, output_size: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.stack = RecurrentStack(cell, input_size)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.stack.output_size, output_size)

    @property
    def state_size(self) -> int:
        return self.stack.state_size

    def initial_state(self) -> Tensor:
        return self.stack.initial_state()

    @property
    def translations(self) -> Translations:
        return self.stack.translations

    def prepare_export(self) -> None:
        self.stack.prepare_export()

    @abstractmethod
    def features(self, inputs: Any) -> Tensor:  # noqa: ANN401 - a tensor, or several
        """What the stack reads, `[B,T,F]`."""

    def logits(
        self,
        inputs: Any,  # noqa: ANN401 - as for `features`
        length: Tensor | None,
        state: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """`[B,T,C]` and the state; length None: every row is full, state None: the start."""
        hidden, state = self.stack(self.features(inputs), length, state)
        return self.head(self.dropout(hidden)), state


class EveryStepLoss(SequenceLoss):
    """Log loss, in nats, of what each step should say; a batch is `(inputs, said[B,T])`.

    Steps that should say `UNSAID` are not counted.
    """

    def num_steps(self, batch: Batch) -> int:
        return int(batch[1].shape[1])

    def cut(self, batch: Batch, steps: slice) -> Batch:
        inputs, said = batch
        return inputs[:, steps], said[:, steps]

    def part(
        self, network: StreamNetwork, batch: Batch, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(network, StackNetwork)
        inputs, said = batch
        logits, state = network.logits(inputs, None, state)
        return log_loss(logits, said), state


UNSAID = -100
"""In the place of a label, where a step need say nothing."""


def log_loss(logits: Tensor, said: Tensor) -> Tensor:
    """Mean over the steps that say something: `logits[B,T,C]`, `said[B,T]`."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), said.flatten(), ignore_index=UNSAID)
