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
    """Figures of one exported graph on rows that training never saw."""

    summary: str
    figures: tuple[QualityFigure, ...]
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]
    caveats: tuple[str, ...] = ()
