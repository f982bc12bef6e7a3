"""minGRU (Feng et al., 2024): a GRU whose gate and candidate do not see h.

z_t = σ(W_z x_t + b_z),  h̃_t = W_h x_t + b_h,  h_t = (1 − z_t) ⊙ h_{t−1} + z_t ⊙ h̃_t
"""

import torch
from torch import Tensor, nn

from training.cells.gated_linear import GatedLinearLayer
from training.config import Section


class MinGRULayer(GatedLinearLayer):
    """One minGRU layer; `state` is `h[B,H]`."""

    def __init__(self, input_size: int, hidden_size: int, options: Section | None = None) -> None:
        super().__init__(input_size, hidden_size, options)
        self.from_x = nn.Linear(input_size, 2 * hidden_size)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        update, candidate = self.from_x(x).chunk(2, dim=-1)
        # σ(−v) is 1 − σ(v) without the cancellation.
        return torch.sigmoid(-update), torch.sigmoid(update) * candidate


LAYER = MinGRULayer
