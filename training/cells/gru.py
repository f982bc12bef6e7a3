"""Gated recurrent unit (Cho et al., 2014), in the form that torch, cuDNN and ONNX share.

Training runs torch's fused kernel. Export writes ONNX's own GRU operator: gate order z, r, n
(torch: r, z, n) and `linear_before_reset=1`. The carried state is `h[B,H]`.
"""

import torch
from onnxscript import opset18
from torch import Tensor, nn

from training.cells.base import OnnxValue, RecurrentLayer, run_ragged
from training.config import Section

_ONNX_INT32 = 6
op: OnnxValue = opset18  # its annotations know nothing of plain lists, which it accepts


class GRUOptions(Section):
    """`[cell.options]` of a GRU."""

    update_bias: float = 0.0
    """Added to the update gate's bias: the higher, the longer it remembers at first."""


class GRULayer(RecurrentLayer):
    """One GRU layer; `state` is `h[B,H]`."""

    Options = GRUOptions

    def __init__(
        self, input_size: int, hidden_size: int, options: GRUOptions | None = None
    ) -> None:
        super().__init__(input_size, hidden_size, options)
        self.gru = nn.GRU(input_size, hidden_size, batch_first=True)
        for name, weight in self.gru.named_parameters():
            if name.startswith("weight_hh"):
                for gate in weight.chunk(3):
                    nn.init.orthogonal_(gate.data)
            if name.startswith("bias_ih"):
                update = (options or GRUOptions()).update_bias
                weight.data[hidden_size : 2 * hidden_size] += update

    @property
    def state_size(self) -> int:
        return self.hidden_size

    def forward(self, x: Tensor, length: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_exporting():
            y, h = onnx_gru(x, length, state, self.onnx_w, self.onnx_r, self.onnx_b)
            return y, h
        h0 = state.unsqueeze(0).contiguous()
        if length is None or bool((length == x.shape[1]).all()):
            y, h = self.gru(x, h0)
        else:
            y, h = run_ragged(self.gru, x, length, h0)
        return y, h.squeeze(0)

    def prepare_export(self) -> None:
        weights = {name: weight.detach() for name, weight in self.gru.named_parameters()}
        w, r = (_gates_zrn(weights[f"weight_{part}_l0"]) for part in ("ih", "hh"))
        bias = torch.cat([_gates_zrn(weights[f"bias_{part}_l0"]) for part in ("ih", "hh")])
        self.register_buffer("onnx_w", w.unsqueeze(0), persistent=False)
        self.register_buffer("onnx_r", r.unsqueeze(0), persistent=False)
        self.register_buffer("onnx_b", bias.unsqueeze(0), persistent=False)


def _gates_zrn(weight: Tensor) -> Tensor:
    r, z, n = weight.chunk(3)
    return torch.cat([z, r, n])


@torch.library.custom_op("carry::gru", mutates_args=())
def onnx_gru(
    x: Tensor, length: Tensor, h0: Tensor, w: Tensor, r: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """The ONNX operator as its specification reads, a step at a time (for tests, not for speed).

    Shapes: x[B,T,F], length[B], h0[B,H], w[1,3H,F], r[1,3H,H], b[1,6H]; gates z, r, n.
    """
    w_bias, r_bias = b[0].chunk(2)
    h, outputs = h0.clone(), []
    for t in range(x.shape[1]):
        gates_B3H = x[:, t] @ w[0].T + w_bias
        hidden_B3H = h @ r[0].T + r_bias
        z, reset = torch.sigmoid((gates_B3H + hidden_B3H)[:, : 2 * h.shape[1]]).chunk(2, dim=1)
        candidate = torch.tanh(gates_B3H.chunk(3, dim=1)[2] + reset * hidden_B3H.chunk(3, dim=1)[2])
        valid = (t < length).unsqueeze(1)
        h = torch.where(valid, (1 - z) * candidate + z * h, h)
        outputs.append(torch.where(valid, h, torch.zeros_like(h)))
    return torch.stack(outputs, dim=1), h


@onnx_gru.register_fake
def _(
    x: Tensor, length: Tensor, h0: Tensor, w: Tensor, r: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], x.shape[1], r.shape[2]), torch.empty_like(h0)


def _to_onnx(
    x: OnnxValue, length: OnnxValue, h0: OnnxValue, w: OnnxValue, r: OnnxValue, b: OnnxValue
) -> tuple[OnnxValue, OnnxValue]:
    y, h = op.GRU(
        op.Transpose(x, perm=[1, 0, 2]),
        w,
        r,
        b,
        op.Cast(length, to=_ONNX_INT32),
        op.Unsqueeze(h0, [0]),
        hidden_size=int(r.shape[2]),
        linear_before_reset=1,
    )
    return op.Transpose(op.Squeeze(y, [1]), perm=[1, 0, 2]), op.Squeeze(h, [0])


GRULayer.translations = {torch.ops.carry.gru.default: _to_onnx}
LAYER = GRULayer
