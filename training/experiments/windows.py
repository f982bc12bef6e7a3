"""How far back a gradient must go: an echo learnt by truncated BPTT (Williams & Peng, 1990).

A stream of random bits; at every step the network must say the bit that came five steps before.
The state is carried over all steps whichever window is used. Only the gradient is cut, so a window
within which no step meets the bit that it must echo cannot teach to keep it.

Axis legend: B rows, T steps, S state size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.cells.base import RecurrentStack, Translations
from training.config import CellConfig
from training.evaluate.report import Table
from training.experiments.experiment import Experiment, Findings, Job, Outcome, Result
from training.experiments.figures import plot_curves, spread_of
from training.fit.truncated import cut_windows, truncated_losses
from training.tasks.base import SequenceLoss, StreamNetwork

_STEPS: Final = 60
_DELAY: Final = 5
_BATCH: Final = 32
_HIDDEN: Final = 32
_RATE: Final = 5e-3
_UPDATES: Final = 2000
_CHECK_EVERY: Final = 100

# method → window_size, shifting_size
_METHODS: Final = {
    "60 steps, full BPTT": (60, 60),
    "10 steps, moved by 5": (10, 5),
    "10 steps, moved by 10": (10, 10),
    "5 steps, moved by 5": (5, 5),
    "1 step": (1, 1),
}


@dataclass(frozen=True)
class WindowsExperiment(Experiment):
    """Share of echoed bits that are wrong, by window."""

    name: ClassVar[str] = "windows"
    title: ClassVar[str] = "How far back a gradient must go"
    variants: ClassVar[dict[str, str]] = {
        "echo5": "an echo after 5 steps, by truncated BPTT; a few minutes on one core"
    }

    def jobs(self, num_seeds: int) -> list[Job]:
        return [
            Job(
                method,
                seed,
                {
                    "cell": "gru",
                    "hidden_size": _HIDDEN,
                    "window_size": window_size,
                    "shifting_size": shifting_size,
                    "num_steps": _STEPS,
                    "delay": _DELAY,
                    "batch_size": _BATCH,
                    "learning_rate": _RATE,
                    "clip": 1.0,
                    "max_updates": _UPDATES,
                },
            )
            for seed in range(1, num_seeds + 1)
            for method, (window_size, shifting_size) in _METHODS.items()
        ]

    def run(self, job: Job) -> Outcome:
        started = monotonic()
        network = _EchoNetwork()
        optimiser = torch.optim.Adam(network.parameters(), lr=_RATE)
        generator = torch.Generator().manual_seed(job.seed)
        tested = echoes(500, torch.Generator().manual_seed(10_002))
        curve: list[tuple[float, float | None]] = [(0, wrong_share(network, tested))]
        num_updates = 0
        while num_updates < _UPDATES:
            batch = echoes(_BATCH, generator)
            for loss in truncated_losses(_EchoLoss(), network, batch, *_METHODS[job.method]):
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch says nothing of it
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
                num_updates += 1
                if num_updates % _CHECK_EVERY == 0:
                    curve.append((num_updates, wrong_share(network, tested)))
                if num_updates == _UPDATES:
                    break
        return Outcome(
            figure=curve[-1][1],
            curve=curve,
            num_weights=sum(p.numel() for p in network.parameters()),
            num_updates=num_updates,
            seconds=round(monotonic() - started, 1),
        )

    def find(self, results: Sequence[Result]) -> Findings:
        spreads = spread_of(results, list(_METHODS))
        met = {name: steps_that_meet_their_bit(*sizes) for name, sizes in _METHODS.items()}
        rows = [
            (
                spread.method,
                f"{100 * met[spread.method]:.0f} %",
                " · ".join(f"{100 * figure:.1f} %" for figure in spread.figures),
            )
            for spread in spreads
        ]
        wrong = {
            is_met: [
                figure for s in spreads if (met[s.method] > 0) is is_met for figure in s.figures
            ]
            for is_met in (True, False)
        }
        header = ("window", "steps whose gradient reaches their bit", "bits wrong, each seed")
        return Findings(
            summary=(
                f"A GRU echoes bits after {_DELAY} steps, and its state is carried all along."
                f" Windows that reach the bit leave at most {_percent(max, wrong[True])} of them"
                f" wrong, windows that end before it at least {_percent(min, wrong[False])};"
                " guessing leaves half of them."
            ),
            tables=(Table("Echoed bits that are wrong", header, rows),),
            plots=(
                plot_curves(
                    results,
                    list(_METHODS),
                    f"An echo after {_DELAY} steps, by window",
                    "update of the weights",
                    "share of bits wrong",
                    level=(0.5, "guessing: 0.5"),
                ),
            ),
            deviations=(
                "It demonstrates what Williams & Peng (1990) describe; there is no published figure"
                " to compare with.",
                "Every window has the same number of updates, not of sequences: short ones see"
                " fewer sequences, and take less time.",
            ),
        )


def echoes(num_rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Bits `x[B,T,1]` as −1 and 1, and the bit `_DELAY` steps before as 0 and 1; 0 at first."""
    bits = torch.randint(0, 2, (num_rows, _STEPS, 1), generator=generator).float()
    before = torch.zeros(num_rows, _DELAY, 1)
    return 2 * bits - 1, torch.cat([before, bits[:, :-_DELAY]], dim=1)


def steps_that_meet_their_bit(window_size: int, shifting_size: int) -> float:
    """The share of steps in whose window lies the bit that they must echo."""
    met = [
        t - _DELAY >= window.start
        for window in cut_windows(_STEPS, window_size, shifting_size)
        for t in range(max(window.counted_from, _DELAY), window.end)
    ]
    return sum(met) / len(met)


def wrong_share(network: "_EchoNetwork", batch: tuple[Tensor, Tensor]) -> float:
    x, y = batch
    with torch.no_grad():
        answers, _ = network(x, None, None)
    return float(((answers > 0) != (y > 0)).float().mean())


def _percent(worst: Callable[[list[float]], float], shares: list[float]) -> str:
    return f"{100 * worst(shares):.1f} %" if shares else "(no figure yet)"


class _EchoNetwork(StreamNetwork):
    """A GRU and a linear map of it to the log-odds of a bit."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = RecurrentStack(CellConfig(kind="gru", hidden_size=_HIDDEN), 1)
        self.head = nn.Linear(_HIDDEN, 1)

    def forward(
        self, x: Tensor, length: Tensor | None, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        hidden, state = self.stack(x, length, state)
        return self.head(hidden), state

    @property
    def state_size(self) -> int:
        return self.stack.state_size

    @property
    def translations(self) -> Translations:
        return self.stack.translations

    def prepare_export(self) -> None:
        self.stack.prepare_export()


class _EchoLoss(SequenceLoss):
    def num_steps(self, batch: tuple[Tensor, Tensor]) -> int:
        return batch[0].shape[1]

    def cut(self, batch: tuple[Tensor, Tensor], steps: slice) -> tuple[Tensor, Tensor]:
        x, y = batch
        return x[:, steps], y[:, steps]

    def part(
        self, network: StreamNetwork, batch: tuple[Tensor, Tensor], state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        x, y = batch
        answers, state = network(x, None, state)
        return functional.binary_cross_entropy_with_logits(answers, y), state


EXPERIMENT = WindowsExperiment
