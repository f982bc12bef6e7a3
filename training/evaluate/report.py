"""What an evaluation hands to the card, the terminal and the manifest."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.contract.manifest import QualityFigure


@dataclass(frozen=True, slots=True)
class Table:
    """Figures with a heading. Cells are already written as people shall read them."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    is_numeric: bool = True
    """Cells behind the first are aligned as numbers."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A PNG of the bundle; `caption` says what to see in it."""

    file: str
    caption: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of one exported graph."""

    summary: str
    figures: tuple[QualityFigure, ...]
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]
    caveats: tuple[str, ...] = ()
    is_held_out: bool = True
    """False where a model was judged on what it learnt, because there is nothing else."""
