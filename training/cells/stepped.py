"""Layers that are given by their step: a loop in training, one ONNX `Scan` when exported.

Axis legend: B rows, T steps, F features, H hidden, P what a step needs of its input, S state size.
"""

from abc import abstractmethod

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

from training.cells.base import RecurrentLayer


class SteppedLayer(RecurrentLayer):
    """A layer whose equation is `advance`, for recurrences that ONNX has no operator for."""

    def inputs(self, x: Tensor) -> Tensor:
        """`x[B,T,F]` → `[B,T,P]`: whatever does not depend on the state, for all steps at once."""
        return x

    @abstractmethod
    def advance(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step's `inputs` `[B,P]` and `state[B,S]` → `y[B,H]`, `state[B,S]`.

        Take tensors apart with `split` or `chunk`: the exporter stumbles over slices such as
        `state[:, 1:]`, and over whatever asks for the number of rows.
        """

    def forward(self, x: Tensor, length: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        inputs_TBP = self.inputs(x).transpose(0, 1)
        valid_TB1 = None
        if length is not None:
            steps = torch.arange(x.shape[1], device=x.device)
            valid_TB1 = (steps.unsqueeze(1) < length).unsqueeze(2)
        if torch.compiler.is_exporting():
            assert valid_TB1 is not None
            start = state.contiguous()  # a slice of the stack's state is not
            state, y_TBH = scan(self._valid_step, start, (inputs_TBP, valid_TB1), dim=0)
            return y_TBH.transpose(0, 1), state
        outputs = []
        for t in range(x.shape[1]):
            y, after = self.advance(inputs_TBP[t], state)
            state = after if valid_TB1 is None else torch.where(valid_TB1[t], after, state)
            outputs.append(y)
        return torch.stack(outputs, dim=1), state

    def _valid_step(self, state: Tensor, step: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The order and the fresh tensors that `scan` asks for: no output may share memory."""
        x, valid = step
        y, after = self.advance(x, state)
        return torch.where(valid, after, state), y.clone()
