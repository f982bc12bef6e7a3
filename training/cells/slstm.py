"""sLSTM (Beck et al., 2024): an LSTM with an exponential input gate and a normaliser.

    z = tanh(·), o = σ(·), log f = log σ(·), log i = ·      each W x_t + R h_{t−1} + b
    m_t = max(log f + m_{t−1}, log i)
    n_t = exp(log f + m_{t−1} − m_t) n_{t−1} + exp(log i − m_t)
    c_t / n_t is a weighted mean of z;  h_t = o ⊙ c_t / n_t

The paper carries c; here its mean v = c/n is carried, which stays in (−1, 1) however long the
stream. One head: R is dense. Carried: h, v, n, m.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.cells.base import LOWEST
from training.cells.stepped import SteppedLayer
from training.config import Section


class SLSTMOptions(Section):
    """`[cell.options]` of an sLSTM."""

    forget_bias: float = 3.0


class SLSTMLayer(SteppedLayer):
    """One sLSTM layer; `state` is `[h, v, n, m]`, `[B, 4H]`."""

    Options = SLSTMOptions

    def __init__(
        self, input_size: int, hidden_size: int, options: SLSTMOptions | None = None
    ) -> None:
        super().__init__(input_size, hidden_size, options)
        self.from_x = nn.Linear(input_size, 4 * hidden_size)
        self.from_h = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        forget_bias = (options or SLSTMOptions()).forget_bias
        self.from_x.bias.data[2 * hidden_size : 3 * hidden_size] += forget_bias

    @property
    def state_size(self) -> int:
        return 4 * self.hidden_size

    def initial_state(self) -> Tensor:
        state = torch.zeros(self.state_size)
        state[3 * self.hidden_size :] = LOWEST
        return state

    def inputs(self, x: Tensor) -> Tensor:
        projected: Tensor = self.from_x(x)
        return projected

    def advance(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h, v, n, m = state.chunk(4, dim=1)
        candidate, show, forget, write = (x + self.from_h(h)).chunk(4, dim=1)
        kept = functional.logsigmoid(forget) + m
        new_m = torch.maximum(kept, write)
        written = torch.exp(write - new_m)
        n = torch.exp(kept - new_m) * n + written
        v = v + written / n * (torch.tanh(candidate) - v)
        h = torch.sigmoid(show) * v
        return h, torch.cat([h, v, n, new_m], dim=1)


LAYER = SLSTMLayer
