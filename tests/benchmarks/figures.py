"""What one measurement came to, and how a table of them is printed and kept."""

import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: medians over the rounds of a run. `ratio` is to the reference that `of` names.

    `load_us_per_step` is the processor time of whoever makes the load: where it comes near a core,
    that is what is measured.
    """

    name: str
    sessions: int
    steps_per_s: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    cpu_us_per_step: float | None = None
    load_us_per_step: float | None = None
    ratio: float | None = None
    of: str = ""


def median_figure(rounds: list[Figure]) -> Figure:
    """The median of each number over rounds of the same measurement."""

    def median(field: str) -> float | None:
        values = [value for value in (getattr(each, field) for each in rounds) if value is not None]
        return statistics.median(values) if values else None

    names = "steps_per_s", "p50_ms", "p99_ms", "cpu_us_per_step", "load_us_per_step", "ratio"
    numbers = {name: median(name) for name in names}
    first = rounds[0]
    return Figure(first.name, first.sessions, of=first.of, **numbers)


def percentile_ms(latencies_s: list[float], share: float) -> float:
    ordered = sorted(latencies_s)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def print_table(figures: list[Figure]) -> None:
    table = Table(title="Steps of a GRU 2 × 128, 8 columns in, 24 × 9 numbers out")
    table.add_column("what")
    for header in (
        "sessions",
        "steps/s",
        "p50 ms",
        "p99 ms",
        "CPU µs/step",
        "load µs/step",
        "ratio",
    ):
        table.add_column(header, justify="right")
    table.add_column("of")
    for each in figures:
        table.add_row(
            each.name,
            str(each.sessions),
            f"{each.steps_per_s:,.0f}",
            _shown(each.p50_ms, 2),
            _shown(each.p99_ms, 2),
            _shown(each.cpu_us_per_step, 1),
            _shown(each.load_us_per_step, 1),
            _shown(each.ratio, 2),
            each.of,
        )
    Console(width=120).print(table)


def write_json(
    figures: list[Figure], path: Path, rounds: int, seconds: float, load_generator: str
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    described = {
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("onnxruntime", "fastapi", "uvicorn")},
        "http_load_generator": load_generator,
        "rounds": rounds,
        "seconds": seconds,
        "figures": [asdict(figure) for figure in figures],
    }
    path.write_text(json.dumps(described, indent=2) + "\n")


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def write_answer(name: str, answer: dict[str, Any]) -> None:
    """Print what a scenario came to, and keep it in bench-results/."""
    print(json.dumps({name: answer}, indent=2))
    path = Path("bench-results") / f"{name.replace(' ', '_')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(answer, indent=2) + "\n")


def resident_bytes(pid: int | str = "self") -> int:
    """Memory that a process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
