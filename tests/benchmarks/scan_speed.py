"""A minGRU trained by the parallel scan against the same cell trained step by step.

python -m tests.benchmarks.scan_speed      writes training/results/scan-speed/results.json
"""

import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from training.cells.min_gru import MinGRULayer
from training.cells.stepped import SteppedLayer

NUM_STEPS, NUM_ROWS, HIDDEN, ROUNDS = 512, 8, 64, 7
OUT = Path("training/results/scan-speed/results.json")


def update(layer: MinGRULayer, x: torch.Tensor, *, by_scan: bool) -> tuple[float, float]:
    """Loss and seconds of one forward and one backward pass."""
    layer.zero_grad()
    start = torch.zeros(NUM_ROWS, layer.state_size)
    began = time.perf_counter()
    run = layer.forward if by_scan else lambda *args: SteppedLayer.forward(layer, *args)
    y, _ = run(x, None, start)
    loss = nn.functional.mse_loss(y[:, :-1], x[:, 1:])
    loss.backward()
    return loss.item(), time.perf_counter() - began


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    layer, x = MinGRULayer(HIDDEN, HIDDEN), torch.randn(NUM_ROWS, NUM_STEPS, HIDDEN)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    losses: dict[bool, float] = {}
    gradients: dict[bool, list[torch.Tensor]] = {}
    for _ in range(ROUNDS):  # in turns, so that both see the same neighbours
        for by_scan in (True, False):
            losses[by_scan], taken = update(layer, x, by_scan=by_scan)
            seconds[by_scan].append(taken)
            gradients[by_scan] = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
    apart = max(
        float((one - other).abs().max())
        for one, other in zip(gradients[True], gradients[False], strict=True)
    )
    scan_s, step_s = (statistics.median(seconds[by_scan]) for by_scan in (True, False))
    result = {
        "steps": NUM_STEPS,
        "rows": NUM_ROWS,
        "hidden_size": HIDDEN,
        "threads": 1,
        "torch": torch.__version__,
        "scan_ms": round(1000 * scan_s, 2),
        "step_by_step_ms": round(1000 * step_s, 2),
        "times_faster": round(step_s / scan_s, 2),
        "loss_by_scan": losses[True],
        "loss_step_by_step": losses[False],
        "largest_difference_of_gradients": apart,
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
