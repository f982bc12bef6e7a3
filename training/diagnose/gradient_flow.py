"""How much of a gradient is left k steps back: ‖∂L/∂h_{t−k}‖ against k.

L is a random linear reading of the last output. The norm is taken over all that a cell carries (for
an LSTM, h and c), averaged over rows, and divided by that of k = 0.

Axis legend: B rows, T steps, F features, S state size.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.cells.base import RecurrentLayer
from training.cells.rnn import RNNLayer, spectral_radius


@dataclass(frozen=True, slots=True)
class GradientFlow:
    """`norms[k]`: the gradient k steps back, as a share of the newest one."""

    norms: np.ndarray
    radius: float | None
    """Largest |eigenvalue| of W_hh, where there is one matrix that is meant by that."""

    @property
    def factor(self) -> float:
        """What one step back multiplies a gradient with, on average over all that can be seen."""
        seen = self.norms[np.isfinite(self.norms) & (self.norms > 1e-30)]
        if len(seen) < 2:
            return 0.0
        return float((seen[-1] / seen[0]) ** (1 / (len(seen) - 1)))

    @property
    def verdict(self) -> str:
        """Of the gradient at the far end, by two orders of magnitude."""
        if self.norms[-1] < 0.01:
            return "vanishes"
        return "is kept" if self.norms[-1] < 100 else "explodes"


def gradient_flow(layer: RecurrentLayer, num_steps: int, seed: int = 0) -> GradientFlow:
    """Gradients along one batch of random inputs. The layer's weights stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, num_steps + 1, layer.input_size, generator=generator)
    reading = torch.randn(layer.hidden_size, generator=generator)
    state = layer.initial_state().expand(len(x), -1)
    states = []
    y: Tensor | None = None
    for t in range(num_steps + 1):
        state = state.detach().requires_grad_() if t == 0 else state
        y, state = layer.step(x[:, t], state)
        states.append(state)
    assert y is not None
    gradients = torch.autograd.grad((y @ reading).sum(), states[:-1], allow_unused=True)
    norms = [
        0.0 if gradient is None else float(gradient.norm(dim=1).mean()) for gradient in gradients
    ]
    newest_first = np.array(norms[::-1])
    # A cell whose last output hangs on its last input alone hands nothing back: all stay 0.
    first = newest_first[0] if newest_first[0] != 0 else 1.0
    radius = spectral_radius(layer.weights()[1]) if isinstance(layer, RNNLayer) else None
    return GradientFlow(newest_first / first, radius)
