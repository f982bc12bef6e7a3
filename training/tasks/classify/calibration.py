"""Makes a classifier's probabilities mean what they say (temperature scaling, Guo et al., 2017).

The temperature may depend on how much has been read: logits are multiplied by
`exp(a + b·l + c·l²)` with `l = min(log count, longest)`. The numbers a, b and c are fitted on
validation texts and on prefixes of them; beyond the longest of those texts nothing is known.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.data.text_batches import TextBatch
from training.tasks.classify.network import ClassifyNetwork

_POWERS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0)
"""Of a text of n tokens, n^p are read: short prefixes as often as long ones, whole texts most."""
_PULL = 1e-3
"""Pulls a, b and c to 0: texts that are all answered rightly would drive them to infinity."""


def fit_calibration(network: ClassifyNetwork, batches: Iterable[TextBatch]) -> None:
    """Set `network.calibration`; nothing else changes."""
    network.eval()
    with torch.no_grad():
        parts = [_answers(network, batch) for batch in batches]
    logits, log_counts, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    scales = torch.zeros(3, requires_grad=True)
    powers = torch.stack([log_counts**0, log_counts, log_counts**2], dim=1)
    optimizer = torch.optim.LBFGS([scales], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        scaled = logits * torch.exp(powers @ scales).unsqueeze(1)
        loss = nn.functional.cross_entropy(scaled, labels) + _PULL * scales.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]  # as is this
    network.calibration.copy_(torch.cat([scales.detach(), log_counts.max().unsqueeze(0)]))


def _answers(network: ClassifyNetwork, batch: TextBatch) -> tuple[Tensor, Tensor, Tensor]:
    tokens, length, label = batch
    read = length.unsqueeze(1) ** torch.tensor(_POWERS)
    steps = torch.minimum(read.round().long(), length.unsqueeze(1)) - 1
    logits, counts = network.logits(tokens, length, steps)
    labels = label.unsqueeze(1).expand_as(steps)
    return logits.flatten(0, 1), counts.log().flatten(), labels.flatten()
