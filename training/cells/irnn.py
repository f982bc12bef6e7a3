"""IRNN (Le, Jaitly & Hinton, 2015): a ReLU network that starts by copying its state.

W_hh starts as the identity (or a small multiple of it), biases at 0, W_ih ~ N(0, 0.001). At first
h_t = relu(h_{t−1} + W_ih x_t): gradients pass through every step unchanged, neither vanishing nor
exploding, until training decides otherwise.
"""

from pydantic import Field
from torch import nn

from training.cells.rnn import RNNLayer, RNNOptions
from training.config import Section


class IRNNOptions(Section):
    """`[cell.options]` of an IRNN."""

    scale: float = Field(default=1.0, gt=0)
    """Of the identity: below 1 it forgets at a rate."""
    input_std: float = Field(default=0.001, gt=0)


class IRNNLayer(RNNLayer):
    """One IRNN layer; `state` is `h[B,H]`."""

    Options = IRNNOptions
    default_options = RNNOptions(activation="relu")

    def __init__(
        self, input_size: int, hidden_size: int, options: IRNNOptions | None = None
    ) -> None:
        super().__init__(input_size, hidden_size)
        options = options or IRNNOptions()
        w_ih, w_hh, *biases = self.weights()
        nn.init.eye_(w_hh).data.mul_(options.scale)
        nn.init.normal_(w_ih, std=options.input_std)
        for bias in biases:
            nn.init.zeros_(bias)


LAYER = IRNNLayer
