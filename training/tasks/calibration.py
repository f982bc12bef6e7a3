"""Makes a classifier's probabilities mean what they say (temperature scaling, Guo et al., 2017).

The temperature may depend on how much has been read: logits are multiplied by
`exp(a + b · min(log count, c))`. The numbers a and b are fitted on validation texts and on prefixes
of them; c is the longest of those texts, beyond which nothing is known.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.data.text_batches import TextBatch
from training.tasks.classify_network import ClassifyNetwork

_PREFIX_SHARES = (0.1, 0.25, 0.5, 1.0, 1.0)
"""How much of each text is read; whole texts count twice."""
_PULL = 1e-3
"""Pulls a and b to 0: texts that are all answered rightly would drive them to infinity."""


def fit_calibration(network: ClassifyNetwork, batches: Iterable[TextBatch]) -> None:
    """Set `network.calibration`; nothing else changes."""
    network.eval()
    with torch.no_grad():
        parts = [_answers(network, batch) for batch in batches]
    logits, log_counts, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    scales = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([scales], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        scaled = logits * torch.exp(scales[0] + scales[1] * log_counts)
        loss = nn.functional.cross_entropy(scaled, labels) + _PULL * scales.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]  # as is this
    network.calibration.copy_(torch.cat([scales.detach(), log_counts.max().unsqueeze(0)]))


def _answers(network: ClassifyNetwork, batch: TextBatch) -> tuple[Tensor, Tensor, Tensor]:
    tokens, length, label = batch
    shares = torch.tensor(_PREFIX_SHARES)
    steps = (length.unsqueeze(1) * shares).ceil().long().clamp(min=1) - 1
    logits, counts = network.logits(tokens, length, steps)
    labels = label.unsqueeze(1).expand_as(steps)
    return logits.flatten(0, 1), counts.log().flatten(0, 1), labels.flatten()
