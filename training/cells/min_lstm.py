"""minLSTM (Feng et al., 2024): an LSTM whose gates do not see h, and share one unit of weight.

    f_t, i_t = σ(W x_t + b),  f′ = f / (f + i),  i′ = i / (f + i),  h_t = f′ ⊙ h_{t−1} + i′ ⊙ h̃_t

with h̃_t = W_h x_t + b_h. There is no cell state beside h.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.cells.gated_linear import GatedLinearLayer
from training.config import Section


class MinLSTMOptions(Section):
    """`[cell.options]` of a minLSTM."""

    forget_bias: float = 1.0


class MinLSTMLayer(GatedLinearLayer):
    """One minLSTM layer; `state` is `h[B,H]`."""

    Options = MinLSTMOptions

    def __init__(
        self, input_size: int, hidden_size: int, options: MinLSTMOptions | None = None
    ) -> None:
        super().__init__(input_size, hidden_size, options)
        self.from_x = nn.Linear(input_size, 3 * hidden_size)
        self.from_x.bias.data[:hidden_size] += (options or MinLSTMOptions()).forget_bias

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        forget, write, candidate = self.from_x(x).chunk(3, dim=-1)
        # f / (f + i) = σ(log f − log i), which divides nothing by nothing when both gates close.
        odds = functional.logsigmoid(forget) - functional.logsigmoid(write)
        return torch.sigmoid(odds), torch.sigmoid(-odds) * candidate


LAYER = MinLSTMLayer
