"""`python -m training`: data sets, fit, evaluate, diagnose, import. Wiring and words only."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

from training.errors import RecipeError, TrainingError, missing_package

try:
    import typer
    from rich.console import Console
    from rich.table import Table as RichTable

    from service.contract.bundle import read_bundle
    from service.contract.errors import ContractError
    from service.contract.manifest import MANIFEST_FILE
    from training.config import load_recipe, parse_recipe
    from training.data.dataset import dataset_names, find_dataset
    from training.evaluate.console import show
    from training.foreign.command import import_onnx
except ModuleNotFoundError as error:  # the extra `training` is not installed
    sys.exit(missing_package(error))

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Train recurrent models and export them as bundles that the service serves.",
)
console = Console()

Data = Annotated[
    str | None,
    typer.Option("--data", metavar="PATH", help="Read the data from here, not the packaged ones."),
]
Models = Annotated[Path, typer.Option(help="Bundles are written to MODELS/NAME/VERSION.")]
Overwrite = Annotated[
    bool, typer.Option(help="Replace a bundle of this version; it may be served.")
]
Runs = Annotated[Path, typer.Option(help="Runs are kept in RUNS/NAME/NUMBER.")]


@app.command()
def datasets() -> None:
    """List the known data sets, their licences, and whether they are here."""
    table = RichTable("name", "data set", "licence", "found", title="Data sets", expand=False)
    for name in dataset_names():
        dataset = find_dataset(name)
        found = "packaged" if dataset.is_found else "pass --data PATH"
        table.add_row(name, dataset.title, dataset.licence, found)
    console.print(table)
    for name in dataset_names():
        console.print(f"[bold]{name}[/] --data: {find_dataset(name).looks_like}", soft_wrap=True)


@app.command()
def fit(
    recipe: Annotated[Path, typer.Argument(help="A recipe, e.g. training/recipes/….toml")],
    data: Data = None,
    devices: Annotated[int, typer.Option(min=1, help="GPUs (or processes) to train on.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    resume: Annotated[bool, typer.Option(help="Continue the newest run of this recipe.")] = False,
    overwrite: Overwrite = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
    models: Models = Path("models"),
    runs: Runs = Path("runs"),
) -> None:
    """Train a recipe, then export, verify, evaluate and write its bundle.

    A version that is there already stays: the bundle gets the next one, and sessions of the older
    go on.
    """
    from training.export.bundle_writer import next_version
    from training.export.compatible_states import compatible_states
    from training.fit.preflight import refuse_unfit
    from training.fit.run_folder import RunFolder
    from training.fit.trainer import FitOptions, is_started_by_another
    from training.fit.trainer import fit as run_fit
    from training.tasks.registry import make_task

    loaded = load_recipe(recipe)
    task = make_task(loaded, data, str(recipe))
    options = FitOptions(devices, accelerator, resume, progress)
    refuse_unfit(task, options)
    compatible_states(models, loaded)  # found now, not after minutes of training
    is_helper = is_started_by_another()
    if resume or is_helper:
        run = RunFolder.newest(runs, loaded)
        run = run.with_version(loaded.version) if overwrite and not is_helper else run
    else:
        version = loaded.version if overwrite else next_version(models, loaded)
        planned = loaded.model_copy(update={"version": version})
        run = RunFolder.create(runs, planned, data, _command(recipe, data))
    if not is_helper:
        console.print(f"[bold]{loaded.name}[/] version {run.recipe.version} → {run.path}")
    if run_fit(task, run, options):
        _export(run.path, models, data, overwrite)


@app.command()
def find_rate(
    recipe: Annotated[Path, typer.Argument(help="A recipe, e.g. training/recipes/….toml")],
    data: Data = None,
    steps: Annotated[int, typer.Option(min=10, help="Rates to try, a batch for each.")] = 100,
    picture: Annotated[Path | None, typer.Option(help="Write loss against rate as a PNG.")] = None,
) -> None:
    """Suggest a learning rate for a recipe: the one at which the loss falls fastest."""
    from training.evaluate.plots.figure import plot_rate_search
    from training.fit.rate_finder import find_rate as search
    from training.tasks.registry import make_task

    task = make_task(load_recipe(recipe), data, str(recipe))
    found = search(task, steps)
    console.print(
        f"learning_rate = {found.suggestion:.2g}  (the recipe says"
        f" {task.recipe.fit.learning_rate:g})"
    )
    if picture is not None:
        picture.write_bytes(plot_rate_search(found.rates, found.losses, found.suggestion).png)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run folder, e.g. runs/transit-ridership/001")],
    data: Data = None,
    overwrite: Overwrite = False,
    models: Models = Path("models"),
) -> None:
    """Export a finished run again: verify, evaluate, write the card and the bundle.

    Where its version is there already with other contents, the bundle gets the next one.
    """
    _export(run, models, data, overwrite)


@app.command()
def evaluate(
    path: Annotated[Path, typer.Argument(help="A bundle's folder, or a run folder.")],
    data: Data = None,
    pictures: Annotated[Path | None, typer.Option(help="Write the pictures here.")] = None,
) -> None:
    """Print a model's figures and its baselines', measured on the exported graph."""
    from training.evaluate.served_model import ServedModel
    from training.export.bundle_writer import draft_bundle
    from training.fit.run_folder import RunFolder
    from training.tasks.registry import make_task

    if (path / MANIFEST_FILE).exists():
        bundle = read_bundle(path.resolve())
        if not bundle.manifest.training.recipe:
            raise RecipeError(
                f"{path}/{MANIFEST_FILE}: no recipe, so nothing says what data judge it; expected a"
                " bundle that `fit` wrote, and import-onnx wrote this one: measure it where it was"
                " trained"
            )
        recipe = parse_recipe(bundle.manifest.training.recipe, f"{path}/{MANIFEST_FILE}")
        task = make_task(recipe, data, f"{path}/{MANIFEST_FILE}")
    else:
        run = RunFolder.open(path)
        task = make_task(run.recipe, data or run.data_path, f"{path}/run.json")
        network = task.network()
        network.load_state_dict(run.load_weights())
        bundle = draft_bundle(task, network.eval(), run)
    evaluation = task.evaluate(ServedModel.from_bundle(bundle))
    show(console, evaluation)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        for plot in evaluation.plots:
            (pictures / plot.file).write_bytes(plot.png)
        console.print(f"{len(evaluation.plots)} pictures written to {pictures}")


@app.command()
def experiment(
    name: Annotated[
        str, typer.Argument(help="adding, cells, pixels, step-size, waveform or windows.")
    ],
    variant: Annotated[
        str | None, typer.Option(help="Such as T200; a wrong one lists them.")
    ] = None,
    data: Data = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds for each method.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Jobs at a time, a core each.")] = 1,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Start no job after this; call again to go on.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Results are written to OUT/NAME.")] = Path(
        "training/results"
    ),
) -> None:
    """Make a published comparison again: table, picture, and every figure with its settings."""
    from training.experiments.experiment import find_experiment
    from training.experiments.runner import run_experiment

    found = find_experiment(name, variant, data)
    command = f"python -m training experiment {name}"
    command += f" --variant {found.variant}" if len(found.variants) > 1 else ""
    command += f" --seeds {seeds}" if seeds != 3 else ""
    command += " --data PATH" if data else ""
    folder, num_left = run_experiment(
        found,
        out,
        seeds,
        command,
        console.print,
        num_workers=workers,
        max_minutes=minutes,
    )
    left = f"; {num_left} jobs left, call again to go on" if num_left else ""
    console.print(f"[bold green]written[/] {folder}/README.md{left}")


@app.command()
def diagnose(
    cell: Annotated[
        list[str] | None,
        typer.Option(help="A case or a kind of cell; give it several times. All cases by default."),
    ] = None,
    steps: Annotated[int, typer.Option(min=5, max=1000, help="Steps to look back.")] = 50,
    updates: Annotated[int, typer.Option(min=1, help="Updates of the training watched.")] = 400,
    out: Annotated[Path, typer.Option(help="Where the page and its pictures go.")] = Path(
        "training/results/gradients"
    ),
) -> None:
    """Show how gradients vanish and explode, what clipping does, and what helps."""
    import torch

    from training.diagnose.cases import find_cases
    from training.diagnose.report import diagnose as write_diagnosis
    from training.diagnose.watch import WatchPlan

    torch.set_num_threads(1)
    cases = find_cases(cell or [])
    command = f"python -m training diagnose --steps {steps} --updates {updates}"
    command += "".join(f" --cell {shlex.quote(name)}" for name in cell or [])
    plan = WatchPlan(num_steps=steps, num_updates=updates)
    table = RichTable("cell", "one step back", "the gradient", title="Before training")
    for watched in write_diagnosis(cases, plan, out, command):
        flow = watched.flows[0]
        table.add_row(watched.case.name, f"{flow.factor:.3f}", flow.verdict)
    console.print(table)
    console.print(f"[bold green]written[/] {out}/index.html")


app.command("import-onnx")(import_onnx)


def main() -> None:
    """Entry of the `carry-train` script. Mistakes of the user end in one line, not a traceback."""
    try:
        app()
    except ModuleNotFoundError as error:
        sys.exit(missing_package(error))
    except (TrainingError, ContractError) as error:
        Console(stderr=True).print(f"[bold red]{error.code}[/]: ", end="")
        print(error, file=sys.stderr)  # noqa: T201 - as it is: rich would read [task] as a style
        sys.exit(2)


def _export(path: Path, models: Path, data: str | None, overwrite: bool) -> None:
    from training.errors import VersionTakenError
    from training.export.bundle_writer import export_run, next_version
    from training.fit.run_folder import RunFolder
    from training.tasks.registry import make_task

    def tell(what: str) -> None:
        console.print(f"… {what}")

    run = RunFolder.open(path)
    while True:  # until the version is this run's own, or free
        task = make_task(run.recipe, data or run.data_path, f"{path}/run.json")
        try:
            manifest, evaluation = export_run(task, run, models, tell, overwrite=overwrite)
            break
        except VersionTakenError:
            run = run.with_version(next_version(models, run.recipe))
            tell(f"another bundle has this version: exporting as version {run.recipe.version}")
    show(console, evaluation)
    folder = models / manifest.name / manifest.version
    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
    console.print(f"[bold green]written[/] {folder} ({num_bytes / 1024:,.0f} KiB)")


def _command(recipe: Path, data: str | None) -> str:
    """How to make this model again, as a person would type it: no path of this machine."""
    shown = os.path.relpath(recipe) if recipe.is_absolute() else str(recipe)
    return f"python -m training fit {shlex.quote(shown)}" + (" --data PATH" if data else "")


if __name__ == "__main__":
    main()
