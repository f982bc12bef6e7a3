"""Long short-term memory (Hochreiter & Schmidhuber, 1997) with a forget gate, without peepholes.

Training runs torch's fused kernel. Export writes ONNX's own LSTM operator: gate order i, o, f, c
(torch: i, f, c, o). The carried state is `h` and `c` side by side, `[B, 2H]`.
"""

import torch
from onnxscript import opset18
from pydantic import Field
from torch import Tensor, nn

from training.cells.base import OnnxValue, RecurrentLayer, run_ragged
from training.config import Section

_ONNX_INT32 = 6
op: OnnxValue = opset18  # its annotations know nothing of plain lists, which it accepts


class LSTMOptions(Section):
    """`[cell.options]` of an LSTM."""

    forget_bias: float = Field(default=1.0)
    """Where the forget gate's bias starts: the higher, the longer it remembers at first."""


class LSTMLayer(RecurrentLayer):
    """One LSTM layer; `state` is `[h, c]`, `[B, 2H]`."""

    Options = LSTMOptions

    def __init__(
        self, input_size: int, hidden_size: int, options: LSTMOptions | None = None
    ) -> None:
        super().__init__(input_size, hidden_size, options)
        forget_bias = (options or LSTMOptions()).forget_bias
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True)
        for name, weight in self.lstm.named_parameters():
            if name.startswith("weight_hh"):
                for gate in weight.chunk(4):
                    nn.init.orthogonal_(gate.data)
            if name.startswith("bias_ih"):  # remember by default (Jozefowicz et al., 2015)
                weight.data[hidden_size : 2 * hidden_size] = forget_bias

    @property
    def state_size(self) -> int:
        return 2 * self.hidden_size

    def forward(self, x: Tensor, length: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        h0, c0 = state.chunk(2, dim=1)
        if torch.compiler.is_exporting():
            y, h, c = onnx_lstm(x, length, h0, c0, self.onnx_w, self.onnx_r, self.onnx_b)
            return y, torch.cat([h, c], dim=1)
        before = (h0.unsqueeze(0).contiguous(), c0.unsqueeze(0).contiguous())
        if length is None or bool((length == x.shape[1]).all()):
            y, (h, c) = self.lstm(x, before)
        else:
            y, (h, c) = run_ragged(self.lstm, x, length, before)
        return y, torch.cat([h.squeeze(0), c.squeeze(0)], dim=1)

    def prepare_export(self) -> None:
        weights = {name: weight.detach() for name, weight in self.lstm.named_parameters()}
        w, r = (_gates_iofc(weights[f"weight_{part}_l0"]) for part in ("ih", "hh"))
        bias = torch.cat([_gates_iofc(weights[f"bias_{part}_l0"]) for part in ("ih", "hh")])
        self.register_buffer("onnx_w", w.unsqueeze(0), persistent=False)
        self.register_buffer("onnx_r", r.unsqueeze(0), persistent=False)
        self.register_buffer("onnx_b", bias.unsqueeze(0), persistent=False)


def _gates_iofc(weight: Tensor) -> Tensor:
    i, f, c, o = weight.chunk(4)
    return torch.cat([i, o, f, c])


@torch.library.custom_op("carry::lstm", mutates_args=())
def onnx_lstm(
    x: Tensor, length: Tensor, h0: Tensor, c0: Tensor, w: Tensor, r: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The ONNX operator as its specification reads, a step at a time (for tests, not for speed).

    Shapes: x[B,T,F], length[B], h0[B,H], c0[B,H], w[1,4H,F], r[1,4H,H], b[1,8H]; gates i, o, f, c.
    """
    w_bias, r_bias = b[0].chunk(2)
    h, c, outputs = h0.clone(), c0.clone(), []
    for t in range(x.shape[1]):
        gates_B4H = x[:, t] @ w[0].T + h @ r[0].T + w_bias + r_bias
        i, o, f, candidate = gates_B4H.chunk(4, dim=1)
        valid = (t < length).unsqueeze(1)
        new_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(candidate)
        c = torch.where(valid, new_c, c)
        h = torch.where(valid, torch.sigmoid(o) * torch.tanh(new_c), h)
        outputs.append(torch.where(valid, h, torch.zeros_like(h)))
    return torch.stack(outputs, dim=1), h, c


@onnx_lstm.register_fake
def _(
    x: Tensor, length: Tensor, h0: Tensor, c0: Tensor, w: Tensor, r: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    y = x.new_empty(x.shape[0], x.shape[1], r.shape[2])
    return y, x.new_empty(h0.shape), x.new_empty(c0.shape)


def _to_onnx(
    x: OnnxValue,
    length: OnnxValue,
    h0: OnnxValue,
    c0: OnnxValue,
    w: OnnxValue,
    r: OnnxValue,
    b: OnnxValue,
) -> tuple[OnnxValue, OnnxValue, OnnxValue]:
    y, h, c = op.LSTM(
        op.Transpose(x, perm=[1, 0, 2]),
        w,
        r,
        b,
        op.Cast(length, to=_ONNX_INT32),
        op.Unsqueeze(h0, [0]),
        op.Unsqueeze(c0, [0]),
        hidden_size=int(r.shape[2]),
    )
    y = op.Transpose(op.Squeeze(y, [1]), perm=[1, 0, 2])
    return y, op.Squeeze(h, [0]), op.Squeeze(c, [0])


LSTMLayer.translations = {torch.ops.carry.lstm.default: _to_onnx}
LAYER = LSTMLayer
