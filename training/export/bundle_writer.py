"""A finished run → a bundle: graph, golden run, verification, evaluation, card, one write.

Rule 1: verification comes before evaluation, and both before anything is written.
Rule 2: the figures of the card and the manifest are measured on the exported graph.
Rule 3: no bundle is replaced unless that was asked for: its sessions could not go on.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from service.contract.bundle import Bundle, read_bundle, write_arrays, write_bundle
from service.contract.golden import check_golden, record_golden
from service.contract.manifest import MANIFEST_FILE, Manifest
from service.contract.state import StateLayout
from training.config import Recipe
from training.errors import RecipeError, VerificationError, VersionTakenError
from training.evaluate.card import write_card
from training.evaluate.plots.figure import plot_training_curves
from training.evaluate.report import Evaluation, Plot
from training.evaluate.served_model import ServedModel, make_run
from training.export.compatible_states import compatible_states
from training.export.onnx_graph import export_graph, graph_spec
from training.export.verify import LONG_STEPS, TOLERANCE, verify
from training.export.versions import library_versions
from training.fit.run_folder import RunFolder
from training.tasks.base import StreamNetwork, Task

MAX_BUNDLE_BYTES = 10 * 1024**2
GOLDEN_LENGTHS = (48, 17, 0, 1, 33)
_VERSION = r"[1-9][0-9]{0,8}"
_NOT_SEALED = "0" * 64


def next_version(models: Path, recipe: Recipe) -> str:
    """The recipe's own version, or the one behind the newest where a bundle has it.

    Raises:
        RecipeError: no version is left behind the newest.
    """
    folder = models / recipe.name
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    taken = [int(name) for name in names if re.fullmatch(_VERSION, name)]
    if int(recipe.version) not in taken:
        return recipe.version
    version = str(max(taken) + 1)
    if not re.fullmatch(_VERSION, version):
        raise RecipeError(
            f"{folder}: no version is free behind {max(taken)}; set `version` in the recipe to a"
            " free one"
        )
    return version


def export_run(
    task: Task,
    run: RunFolder,
    models: Path,
    tell: Callable[[str], None],
    *,
    overwrite: bool = False,
) -> tuple[Manifest, Evaluation]:
    """Export, verify, evaluate and write `models/<name>/<version>/`.

    A bundle that is there already is left as it is if it is this very one, and replaced only with
    `overwrite`: it may be served.

    Raises:
        RunError: the run is not finished.
        RecipeError: a version that it names in `compatible_with` is not there.
        VersionTakenError: another bundle is there already.
        VerificationError: the graph is not the network, or the bundle is too large.
    """
    states = compatible_states(models, run.recipe)
    network = task.network()
    network.load_state_dict(run.load_weights())
    network.eval()
    tell("exporting the graph")
    draft = draft_bundle(task, network, run)
    tell("verifying: torch = ONNX Runtime, steps = sequence, alone = batched")
    verify(draft, network, task.example_inputs(1, LONG_STEPS))
    tell("evaluating the exported graph")
    evaluation = task.evaluate(ServedModel.from_bundle(draft))
    plots = [*evaluation.plots, *_curves(run)]
    manifest = draft.manifest.model_copy(
        update={"quality": evaluation.figures, "compatible_states": states}
    )
    files = dict(draft.files) | {plot.file: plot.png for plot in plots}
    files["CARD.md"] = write_card(manifest, evaluation, plots).encode()
    num_bytes = sum(len(data) for data in files.values())
    if num_bytes > MAX_BUNDLE_BYTES:
        raise VerificationError(
            f"the bundle would hold {num_bytes:,} bytes, at most {MAX_BUNDLE_BYTES:,} are allowed:"
            " make cell.hidden_size or the vocabulary smaller"
        )
    folder = models / manifest.name / manifest.version
    if folder.exists() and not overwrite:
        return _same_bundle(folder, manifest, files), evaluation
    sealed = write_bundle(folder, manifest, files)
    written = read_bundle(folder)
    check_golden(written, make_run(written.graph))
    return sealed, evaluation


def draft_bundle(task: Task, network: StreamNetwork, run: RunFolder) -> Bundle:
    """Graph, golden run and manifest in memory, without figures yet."""
    initial = network.initial_state().numpy().astype(np.float32)
    has_initial = bool(initial.any())
    graph = graph_spec(network, task.graph_parts(), "state" if has_initial else "zeros")
    parts = task.manifest_parts()
    files: dict[str, bytes] = {**parts.files, "model.onnx": export_graph(network, graph)}
    if has_initial:
        files["initial.npz"] = write_arrays({"state": initial})
    layout = StateLayout(graph.states, {"state": initial}, graph.state_schema)
    length = np.array(GOLDEN_LENGTHS, dtype=np.int64)
    inputs = task.example_inputs(len(length), int(length.max()))
    golden = record_golden(graph, layout, inputs, length, make_run(files["model.onnx"]))
    files["golden.npz"] = write_arrays(golden.to_arrays())
    recipe = run.recipe
    manifest = Manifest.model_validate(
        {
            "format": "carry-bundle/1",
            "name": recipe.name,
            "version": recipe.version,
            "title": recipe.title,
            "description": recipe.description,
            "task": task.served_as or recipe.kind,
            "graph": graph,
            "forecast": parts.forecast,
            "text": parts.text,
            "generate": parts.generate,
            "tag": parts.tag,
            "labels": parts.labels,
            "initial_states": "initial.npz" if has_initial else None,
            "golden": {
                "file": "golden.npz",
                "tolerance": TOLERANCE,
                "scales": task.output_scales(),
            },
            "training": {
                "recipe": recipe.model_dump(mode="json"),
                "command": run.command,
                "seed": recipe.seed,
                "versions": library_versions(),
                "data": task.sources(),
                "weights_licence": parts.weights_licence,
                "weights_note": parts.weights_note,
            },
            "quality": (),
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
            "manifest_sha256": _NOT_SEALED,
        }
    )
    return Bundle(manifest, files)


def _same_bundle(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """The manifest of the bundle in `folder`, if it is what would be written."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    sealed = manifest.model_copy(update={"files": hashes}).with_own_hash()
    file = folder / MANIFEST_FILE
    if not file.exists() or file.read_text(encoding="utf-8") != sealed.to_json():
        raise VersionTakenError(
            f"{folder} is there already, with other contents: it may be served; pass --overwrite"
            " to replace it, or name other --models"
        )
    return sealed


def _curves(run: RunFolder) -> list[Plot]:
    history = run.history()
    return [plot_training_curves(history)] if history else []
