"""`python -m training import-onnx`: serve a recurrent graph that was made elsewhere."""

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from training.foreign.choices import Choices, ImportGraphError

if TYPE_CHECKING:
    from service.contract.calls import Run
    from training.foreign.inspection import Inspection
    from training.foreign.signature import Signature

console = Console()

_MAX_LISTED = 20
_LIMIT_S = 120.0


def import_onnx(
    graph: Annotated[Path, typer.Argument(help="The graph, e.g. silero_vad_16k_op15.onnx.")],
    name: Annotated[str, typer.Option(help="The model's name.")],
    version: Annotated[str, typer.Option(help="The model's version.")] = "1",
    state: Annotated[
        list[str] | None,
        typer.Option(
            help="INPUT=OUTPUT of a state, where names and nodes do not tell; INPUT= for an input"
            " that is not a state."
        ),
    ] = None,
    batch_axis: Annotated[
        list[str] | None,
        typer.Option(help="Axis of the rows: a number, for every state; or INPUT.NUMBER."),
    ] = None,
    one_row: Annotated[bool, typer.Option(help="The graph takes one row at a time.")] = False,
    time: Annotated[
        list[str] | None,
        typer.Option(help="Axis of steps: its name, or INPUT.NUMBER; if there is one."),
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
        list[str] | None,
        typer.Option(help="INPUT=VALUE[,VALUE…] of an input that stays the same."),
    ] = None,
    title: Annotated[str, typer.Option(help="What people call it.")] = "",
    licence: Annotated[str, typer.Option(help="Of the weights.")] = "not known",
    tolerance: Annotated[float, typer.Option(help="Of the checks; 1e-4 of each value.")] = 1e-4,
    limit_s: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds that reading and running may take.")
    ] = _LIMIT_S,
    models: Annotated[Path, typer.Option(help="Written to MODELS/NAME/VERSION.")] = Path("models"),
) -> None:
    """Inspect a recurrent ONNX graph, check it, and write a bundle that the service serves.

    States are paired by the graph's nodes and by their names; what the graph does not tell is
    asked, or, without a terminal, listed with the option that says it.
    """
    choices = Choices.of(state or [], constant or [], size or [], overlap or [])
    for option, texts in (("--batch-axis", batch_axis), ("--time", time)):
        for text in texts or []:
            choices.answer(option, text)
    choices.length, choices.one_row = length, one_row
    ask = _ask if sys.stdin.isatty() else None
    command = _command(graph)
    write_bundle_of(
        graph, choices, ask, name, version, title, licence, tolerance, command, models, limit_s
    )


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
    limit_s: float = _LIMIT_S,
) -> None:
    """Inspect, ask, check, write. The graph is read and run in a process of its own.

    Raises:
        ImportGraphError: the graph cannot be served, or something is not known and nobody can be
            asked.
    """
    from training.foreign.bundle import Described, refuse_described, write_foreign
    from training.foreign.graph_process import GraphProcess

    texts = (path.name, licence, command, title)
    source, licence, command, title = (os.fsencode(each).decode(errors="replace") for each in texts)
    described = Described(name, version, source, licence, command, title, tolerance)
    refuse_described(described, models)
    with GraphProcess(path, limit_s) as graph:
        inspection = _settle(graph.signature, graph.run, choices, ask, source)
        for before, after in inspection.states.items():
            console.print(f"state  {before} ← {after}", markup=False)
        if inspection.proposed_time:
            console.print(f"steps  {inspection.proposed_time} (by its name)", markup=False)
        if inspection.length and choices.length is None:
            console.print(f"length {inspection.length} (each row's number of steps)", markup=False)
        spec = inspection.graph_spec(f"{name}/{version}")
        manifest = write_foreign(
            graph.graph, graph.run, spec, described, models, inspection.step_hint
        )
    written = models / manifest.name / manifest.version
    console.print(f"[bold green]written[/] {escape(str(written))}")


def _settle(
    signature: "Signature",
    run: "Run",
    choices: Choices,
    ask: Callable[[str], str] | None,
    source: str,
) -> "Inspection":
    """Ask until nothing stands open. A wrong answer is asked again."""
    from training.foreign.inspection import Inspection

    inspection = Inspection(signature, run, choices)
    while questions := inspection.questions():
        if ask is None:
            listed = [f"  {each}" for each in questions[:_MAX_LISTED]]
            if len(questions) > _MAX_LISTED:
                listed.append(f"  and {len(questions) - _MAX_LISTED} more")
            raise ImportGraphError("\n".join([f"{source} does not tell everything; say:", *listed]))
        first = questions[0]
        answered = choices.copy()
        try:
            answered.answer(first.option, f"{first.key}{ask(f'{first.what} {first.option}')}")
            inspection = Inspection(signature, run, answered)
        except ImportGraphError as error:
            console.print(str(error), markup=False)
        else:
            choices = answered
    return inspection


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
