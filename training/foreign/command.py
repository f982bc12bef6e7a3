"""`python -m training import-onnx`: serve a recurrent graph that was made elsewhere."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.foreign.choices import Choices, ImportGraphError

console = Console()


def import_onnx(
    graph: Annotated[Path, typer.Argument(help="The graph, e.g. silero_vad_16k_op15.onnx.")],
    name: Annotated[str, typer.Option(help="The model's name.")],
    version: Annotated[str, typer.Option(help="The model's version.")] = "1",
    state: Annotated[
        list[str] | None,
        typer.Option(help="INPUT:OUTPUT of a state, where their names do not tell."),
    ] = None,
    batch_axis: Annotated[
        int | None, typer.Option(min=0, help="Axis of the rows in every state.")
    ] = None,
    one_row: Annotated[bool, typer.Option(help="The graph takes one row at a time.")] = False,
    time: Annotated[
        str | None, typer.Option(help="Axis of steps: its name, or INPUT.NUMBER; if there is one.")
    ] = None,
    length: Annotated[str | None, typer.Option(help="Input that takes each row's length.")] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="AXIS=N, or INPUT.NUMBER=N, of an axis that is free.")
    ] = None,
    overlap: Annotated[
        list[str] | None,
        typer.Option(help="[INPUT=]N: so many values repeat the end of the input before."),
    ] = None,
    constant: Annotated[
        list[str] | None, typer.Option(help="INPUT=VALUE of an input that stays the same.")
    ] = None,
    title: Annotated[str, typer.Option(help="What people call it.")] = "",
    licence: Annotated[str, typer.Option(help="Of the weights.")] = "not known",
    tolerance: Annotated[float, typer.Option(help="Of the checks; 1e-4 of each value.")] = 1e-4,
    models: Annotated[Path, typer.Option(help="Written to MODELS/NAME/VERSION.")] = Path("models"),
) -> None:
    """Inspect a recurrent ONNX graph, check it, and write a bundle that the service serves.

    States are paired by their names; what the graph does not tell is asked, or, without a
    terminal, listed with the option that says it.
    """
    choices = Choices.of(state or [], constant or [], size or [], overlap or [])
    choices.batch_axis, choices.one_row = batch_axis, one_row
    choices.time, choices.length = time, length
    ask = _ask if sys.stdin.isatty() else None
    command = _command(graph)
    write_bundle_of(graph, choices, ask, name, version, title, licence, tolerance, command, models)


def write_bundle_of(
    path: Path,
    choices: Choices,
    ask: Callable[[str], str] | None,
    name: str,
    version: str,
    title: str,
    licence: str,
    tolerance: float,
    command: str,
    models: Path,
) -> None:
    """Inspect, ask, check, write.

    Raises:
        ImportGraphError: something is not known and nobody can be asked.
    """
    from training.foreign.bundle import Described, write_foreign
    from training.foreign.inspection import Inspection

    if not path.is_file():
        raise ImportGraphError(f"{path} is no file: expected an ONNX graph")
    data = path.read_bytes()
    inspection = Inspection(data, choices)
    while questions := inspection.questions():
        if ask is None:
            listed = "\n".join(f"  {each.option} {each.key}…  {each.what}" for each in questions)
            raise ImportGraphError(f"{path.name} does not tell everything; say:\n{listed}")
        first = questions[0]
        mark = "" if not first.key else "="
        choices.answer(first.option, f"{first.key}{mark}{ask(f'{first.what} {first.option}')}")
        inspection = Inspection(data, choices)
    for before, after in inspection.states.items():
        console.print(f"state  {before} ← {after}")
    spec = inspection.graph_spec(f"{name}/{version}")
    described = Described(name, version, path.name, licence, command, title, tolerance)
    manifest = write_foreign(data, spec, described, models)
    console.print(f"[bold green]written[/] {models / manifest.name / manifest.version}")


def _ask(what: str) -> str:
    answer: str = typer.prompt(what)
    return answer


def _command(graph: Path) -> str:
    """As a person would type it: no path of this machine."""
    words = [graph.name if word == str(graph) else word for word in sys.argv[1:]]
    if "--models" in words:
        place = words.index("--models")
        del words[place : place + 2]
    return shlex.join(["python", "-m", "training", *words])
