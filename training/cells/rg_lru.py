"""RG-LRU, the real-gated linear recurrent unit of Griffin (De et al., 2024).

    u_t = W_u x_t + b_u,  r_t, i_t = σ(W x_t + b),  a_t = σ(Λ)^(c·r_t),  c = 8
    h_t = a_t ⊙ h_{t−1} + √(1 − a_t²) ⊙ (i_t ⊙ u_t)

The factor √(1 − a²) keeps the size of h whatever the gate does. In Griffin W_u lies
outside the unit.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.cells.gated_linear import GatedLinearLayer
from training.config import Section

_SHARPNESS = 8.0
_SLOWEST, _FASTEST = 0.999, 0.9
_SMALLEST = 1e-8
"""Where a is 1 but for rounding, the root's slope would be infinite."""


class RGLRULayer(GatedLinearLayer):
    """One RG-LRU layer; `state` is `h[B,H]`."""

    def __init__(self, input_size: int, hidden_size: int, options: Section | None = None) -> None:
        super().__init__(input_size, hidden_size, options)
        self.from_x = nn.Linear(input_size, 3 * hidden_size)
        decay = torch.empty(hidden_size).uniform_(_FASTEST, _SLOWEST) ** (1 / _SHARPNESS)
        self.decay_logit = nn.Parameter(torch.logit(decay))

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        recurrence, write, value = self.from_x(x).chunk(3, dim=-1)
        log_decay = _SHARPNESS * functional.logsigmoid(self.decay_logit)
        a = torch.exp(log_decay * torch.sigmoid(recurrence))
        kept_size = torch.sqrt((1 - a * a).clamp(min=_SMALLEST))
        return a, kept_size * torch.sigmoid(write) * value


LAYER = RGLRULayer
