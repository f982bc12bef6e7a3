"""Latent autoregressive model: a hidden summary of the past, and an answer read from it.

    h_t = g(h_{t−1}, x_t),   y_t = f(h_t)

g and f may be any functions; here each is a perceptron with one hidden layer. It is what is left of
a recurrent network when nothing is said about g, and so the parent of every other cell.
"""

import torch
from torch import Tensor, nn

from training.cells.stepped import SteppedLayer
from training.config import Section


class LatentARLayer(SteppedLayer):
    """One latent autoregressive layer; `state` is `h[B,H]`."""

    def __init__(self, input_size: int, hidden_size: int, options: Section | None = None) -> None:
        super().__init__(input_size, hidden_size, options)
        self.from_x = nn.Linear(input_size, hidden_size)
        self.from_h = nn.Linear(hidden_size, hidden_size, bias=False)
        self.to_h = nn.Linear(hidden_size, hidden_size)
        self.answer = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.Tanh(), nn.Linear(hidden_size, hidden_size)
        )

    @property
    def state_size(self) -> int:
        return self.hidden_size

    def inputs(self, x: Tensor) -> Tensor:
        projected: Tensor = self.from_x(x)
        return projected

    def advance(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """g; f does not feed back, so `forward` applies it to all steps at once."""
        h = torch.tanh(self.to_h(torch.tanh(x + self.from_h(state))))
        return h, h

    def forward(self, x: Tensor, length: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        h, state = super().forward(x, length, state)
        return self.answer(h), state


LAYER = LatentARLayer
