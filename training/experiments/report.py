"""An experiment's folder, for people: README.md and pictures, written from its results alone."""

from collections.abc import Sequence
from pathlib import Path

from training.evaluate.card import write_table
from training.evaluate.report import Table
from training.experiments.experiment import Experiment, Result
from training.export.versions import library_versions


def write_report(
    experiment: Experiment, results: Sequence[Result], folder: Path, command: str
) -> None:
    findings = experiment.find(results)
    seconds = sum(result.outcome.seconds for result in results)
    versions = library_versions()
    parts = [
        f"# {experiment.title}: {experiment.variants[experiment.variant].split(';')[0]}",
        findings.summary,
        *(write_table(table) for table in findings.tables),
        *(f"![{plot.caption}]({plot.file})\n\n*{plot.caption}*" for plot in findings.plots),
        "## How it differs from what was published",
        "\n".join(f"- {deviation}" for deviation in findings.deviations),
        "## Made by",
        f"```\n{command}\n```",
        f"{len(results)} jobs, {seconds / 60:.0f} minutes of one core; python {versions['python']},"
        f" torch {versions['torch']}. Every job with its settings is in `results.json`; a job is"
        " one method with one seed.",
        write_table(_settings(results)),
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    for plot in findings.plots:
        (folder / plot.file).write_bytes(plot.png)


def _settings(results: Sequence[Result]) -> Table:
    """One line for each method: what was set."""
    settings = {result.method: result.settings for result in results}
    rows = [
        (method, ", ".join(f"{name} {value}" for name, value in mine.items()))
        for method, mine in settings.items()
    ]
    return Table("Settings", ("method", "settings"), rows, is_numeric=False)
