"""CARD.md: what a bundle is, what made it, how good it is, and the command behind each figure.

Plain Markdown from facts that the manifest holds too; nothing here measures anything.
"""

from collections.abc import Iterable, Sequence

from service.contract.manifest import Manifest
from service.contract.tensors import InputSpec, OutputSpec
from training.evaluate.report import Evaluation, Plot, Table


def write_card(manifest: Manifest, evaluation: Evaluation, plots: Sequence[Plot]) -> str:
    """The card as Markdown."""
    training = manifest.training
    data = " --data PATH" if " --data " in training.command else ""
    evaluate = (
        f"python -m training evaluate models/{manifest.name}/{manifest.version}{data}"
        " --pictures FOLDER"
    )
    parts = [
        f"# {manifest.title}",
        manifest.description,
        evaluation.summary,
        "## Measured",
        "Every figure of this section is measured on the exported graph in ONNX Runtime, on "
        + (
            "rows that neither training nor tuning saw."
            if evaluation.is_held_out
            else "what it learnt: there is nothing else."
        )
        + " This command prints them, and writes the pictures (that of the training curve is made"
        " by the command at the end):",
        f"```\n{evaluate}\n```",
        *(write_table(table) for table in evaluation.tables),
        *(
            f"![{plot.file.removesuffix('.png')}]({plot.file})\n\n*{plot.caption}*"
            for plot in plots
        ),
    ]
    if evaluation.caveats:
        parts += ["## What it does not do", _bullets(evaluation.caveats)]
    parts += [
        "## Data and licences",
        _bullets(
            f"{source.name}: {source.rows:,} rows, {source.licence}."
            + (f" {source.note}" if source.note else "")
            + f" SHA-256 `{source.sha256}`."
            for source in training.data
        ),
        f"Weights: {training.weights_licence}. {training.weights_note}".strip(),
        "## Inputs and outputs",
        _inputs(manifest),
        "## Made by",
        f"```\n{training.command}\n```",
        f"Seed {training.seed}; "
        + ", ".join(f"{name} {version}" for name, version in training.versions.items())
        + ".",
        _recipe(training.recipe),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_table(table: Table) -> str:
    """A table as Markdown, with its heading and its note."""
    header = "| " + " | ".join(table.header) + " |"
    others = " --: " if table.is_numeric else " :-- "
    rule = "|" + "|".join([" :-- ", *[others] * (len(table.header) - 1)]) + "|"
    rows = ["| " + " | ".join(row) + " |" for row in table.rows]
    note = f"\n\n{table.note}" if table.note else ""
    return f"### {table.title}\n\n" + "\n".join([header, rule, *rows]) + note


def _inputs(manifest: Manifest) -> str:
    graph = manifest.graph
    tensors: list[InputSpec | OutputSpec] = [*graph.inputs, *graph.outputs]
    lines = [f"`{t.name}` {t.dtype} {_shape(t.shape)} ({t.role})" for t in tensors]
    lines += [
        f"`{s.input}` → `{s.output}` {s.dtype} {_shape(s.shape)}, {s.row_bytes:,} bytes a session"
        for s in graph.states
    ]
    parts = [_bullets(lines)]
    spec = manifest.forecast or manifest.tag
    if spec is not None:
        columns = [(c.name, c.role, c.unit, c.description) for c in spec.columns]
        header = ("column", "role", "unit", "what")
        parts.append(write_table(Table("Columns of a row", header, columns, is_numeric=False)))
    if manifest.labels is not None:
        parts.append("Labels, in order: " + ", ".join(f"`{label}`" for label in manifest.labels))
    return "\n\n".join(parts)


def _shape(shape: Iterable[str | int]) -> str:
    return "[" + ", ".join(str(axis) for axis in shape) + "]"


def _recipe(recipe: dict[str, object]) -> str:
    rows = []
    for section, values in recipe.items():
        if isinstance(values, dict):
            rows += [(f"{section}.{key}", f"`{value}`") for key, value in values.items()]
    return write_table(Table("Recipe", ("option", "value"), rows, is_numeric=False))


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
