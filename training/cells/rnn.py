"""Vanilla recurrent network (Elman, 1990), with tanh, sigmoid or ReLU in the recurrence.

    h_t = φ(W_ih x_t + b_ih + W_hh h_{t−1} + b_hh)

Training runs torch's fused kernel, which has no sigmoid: that one is looped. Export writes ONNX's
own RNN operator, which has all three. The carried state is `h[B,H]`.
"""

from collections.abc import Callable
from typing import ClassVar, Final, Literal

import torch
from onnxscript import opset18
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from training.cells.base import OnnxValue, RecurrentLayer, run_ragged
from training.config import Section

_ONNX_INT32 = 6
op: OnnxValue = opset18  # its annotations know nothing of plain lists, which it accepts

Activation = Literal["tanh", "sigmoid", "relu"]
ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
}
_ONNX_NAMES: Final = {"tanh": "Tanh", "sigmoid": "Sigmoid", "relu": "Relu"}


class RNNOptions(Section):
    """`[cell.options]` of a vanilla RNN."""

    activation: Activation = "tanh"
    radius: float | None = Field(default=None, gt=0)
    """W_hh starts Gaussian, scaled to this largest |eigenvalue|; None: torch's uniform start."""


class RNNLayer(RecurrentLayer):
    """One vanilla layer; `state` is `h[B,H]`."""

    Options: ClassVar[type[Section]] = RNNOptions
    default_options: ClassVar[RNNOptions] = RNNOptions()

    def __init__(self, input_size: int, hidden_size: int, options: Section | None = None) -> None:
        super().__init__(input_size, hidden_size, options)
        options = options if isinstance(options, RNNOptions) else self.default_options
        self.activation = options.activation
        fused = "relu" if self.activation == "relu" else "tanh"
        self.rnn = nn.RNN(input_size, hidden_size, batch_first=True, nonlinearity=fused)
        if options.radius is not None:
            weight = nn.init.normal_(self.weights()[1].data)
            weight.mul_(options.radius / spectral_radius(weight))

    @property
    def state_size(self) -> int:
        return self.hidden_size

    def forward(self, x: Tensor, length: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_exporting():
            y, h = onnx_rnn(
                x, length, state, self.onnx_w, self.onnx_r, self.onnx_b, self.activation
            )
            return y, h
        if self.activation == "sigmoid":
            return self._loop(x, length, state)
        h0 = state.unsqueeze(0).contiguous()
        if length is None or bool((length == x.shape[1]).all()):
            y, h = self.rnn(x, h0)
        else:
            y, h = run_ragged(self.rnn, x, length, h0)
        return y, h.squeeze(0)

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W_ih, W_hh, b_ih, b_hh."""
        w_ih, w_hh, b_ih, b_hh = self.rnn.parameters()
        return w_ih, w_hh, b_ih, b_hh

    def prepare_export(self) -> None:
        w, r, b_ih, b_hh = (weight.detach() for weight in self.weights())
        for name, value in (("onnx_w", w), ("onnx_r", r), ("onnx_b", torch.cat([b_ih, b_hh]))):
            self.register_buffer(name, value.unsqueeze(0), persistent=False)

    def _loop(self, x: Tensor, length: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
        w, r, b_ih, b_hh = self.weights()
        from_x, outputs = functional.linear(x, w, b_ih + b_hh), []
        for t in range(x.shape[1]):
            after = torch.sigmoid(from_x[:, t] + functional.linear(h, r))
            h = after if length is None else torch.where((t < length).unsqueeze(1), after, h)
            outputs.append(after)
        return torch.stack(outputs, dim=1), h


def spectral_radius(weight: Tensor) -> float:
    """The largest |eigenvalue| of a square matrix: above 1 a linear recurrence explodes."""
    return float(torch.linalg.eigvals(weight.detach().double()).abs().max())


@torch.library.custom_op("carry::rnn", mutates_args=())
def onnx_rnn(
    x: Tensor, length: Tensor, h0: Tensor, w: Tensor, r: Tensor, b: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    """The ONNX operator as its specification reads, a step at a time (for tests, not for speed).

    Shapes: x[B,T,F], length[B], h0[B,H], w[1,H,F], r[1,H,H], b[1,2H].
    """
    w_bias, r_bias = b[0].chunk(2)
    h, outputs = h0.clone(), []
    for t in range(x.shape[1]):
        after = ACTIVATIONS[activation](x[:, t] @ w[0].T + w_bias + h @ r[0].T + r_bias)
        valid = (t < length).unsqueeze(1)
        h = torch.where(valid, after, h)
        outputs.append(torch.where(valid, after, torch.zeros_like(after)))
    return torch.stack(outputs, dim=1), h


@onnx_rnn.register_fake
def _(
    x: Tensor, length: Tensor, h0: Tensor, w: Tensor, r: Tensor, b: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], x.shape[1], r.shape[2]), torch.empty_like(h0)


def _to_onnx(
    x: OnnxValue,
    length: OnnxValue,
    h0: OnnxValue,
    w: OnnxValue,
    r: OnnxValue,
    b: OnnxValue,
    activation: str,
) -> tuple[OnnxValue, OnnxValue]:
    y, h = op.RNN(
        op.Transpose(x, perm=[1, 0, 2]),
        w,
        r,
        b,
        op.Cast(length, to=_ONNX_INT32),
        op.Unsqueeze(h0, [0]),
        hidden_size=int(r.shape[2]),
        activations=[_ONNX_NAMES[activation]],
    )
    return op.Transpose(op.Squeeze(y, [1]), perm=[1, 0, 2]), op.Squeeze(h, [0])


RNNLayer.translations = {torch.ops.carry.rnn.default: _to_onnx}
LAYER = RNNLayer
