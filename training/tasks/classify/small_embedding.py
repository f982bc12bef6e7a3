"""An embedding table whose bundle holds half-precision numbers.

Tables are most of a text model's size. Everywhere but in training the rows are rounded as they
are looked up, so torch, the exported graph and every figure on the card see the same numbers.
"""

import torch
from torch import Tensor, nn


class SmallEmbedding(nn.Module):
    """`ids[B,T]` → rows `[B,T,F]` as float32."""

    half_weight: Tensor

    def __init__(self, num_rows: int, size: int, spread: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_rows, size) * spread)

    def forward(self, ids: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return nn.functional.embedding(ids, self.half_weight).float()
        rows = nn.functional.embedding(ids, self.weight)
        return rows if self.training else rows.half().float()

    def prepare_export(self) -> None:
        self.register_buffer("half_weight", self.weight.detach().half(), persistent=False)
