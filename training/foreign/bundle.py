"""A graph from elsewhere → a bundle: recorded, checked in every way it may be fed, then written.

Rule 1: nothing is written before all checks have passed.
Rule 2: the golden run is of noise, drawn from a fixed seed: it proves how the graph is fed, and
        nothing of how good it is.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.contract.bundle import Bundle, read_bundle, write_arrays, write_bundle
from service.contract.golden import GoldenRun, check_golden, record_golden
from service.contract.graph import GraphSpec
from service.contract.graph_scan import refuse_external_data
from service.contract.manifest import Manifest
from service.contract.state import StateLayout
from service.contract.tensors import InputSpec, describe_shape
from training.evaluate.served_model import make_run
from training.export.versions import library_versions
from training.foreign.choices import ImportGraphError

_LENGTHS = (8, 3, 1)
_NOT_SEALED = "0" * 64


@dataclass(frozen=True, slots=True)
class Described:
    """What the manifest says of a model beside its graph."""

    name: str
    version: str
    source: str
    licence: str
    command: str
    title: str = ""
    tolerance: float = 1e-4


def write_foreign(graph: bytes, spec: GraphSpec, described: Described, models: Path) -> Manifest:
    """Record, check and write `models/<name>/<version>/`.

    Raises:
        ImportGraphError: its states never change.
        ContractError: a way of feeding it gives other answers, or the graph refers to other files.
    """
    refuse_external_data(graph, described.source)
    files = {"model.onnx": graph}
    golden = _record(graph, spec)
    files["golden.npz"] = write_arrays(golden.to_arrays())
    manifest = _manifest(files, spec, described)
    files["CARD.md"] = _card(manifest).encode()
    manifest = _manifest(files, spec, described)
    check_golden(Bundle(manifest, files), make_run(graph))
    folder = models / manifest.name / manifest.version
    if folder.exists():
        raise ImportGraphError(
            f"{folder} is there already: open sessions could not go on with another graph; give"
            " another --version, or remove it"
        )
    sealed = write_bundle(folder, manifest, files)
    read_bundle(folder)
    return sealed


def _record(graph: bytes, spec: GraphSpec) -> GoldenRun:
    rng = np.random.default_rng(0)
    has_length = spec.input_with("length") is not None
    length = np.array([*_LENGTHS, 0] if has_length else _LENGTHS)
    shape = (len(length), int(length.max()))
    inputs = {tensor.name: _noise(rng, tensor, shape) for tensor in spec.tensors}
    layout = StateLayout(spec.carried, schema=spec.state_schema)
    run = make_run(graph)
    golden = record_golden(spec, layout, inputs, length, run)
    unchanged = [
        state.output
        for state in spec.carried
        if not golden.states[state.output][: len(_LENGTHS)].any()
    ]
    if unchanged:
        raise ImportGraphError(
            f"states {unchanged} are still zeros after {max(_LENGTHS)} steps of noise: are they"
            " paired rightly? say --state INPUT:OUTPUT"
        )
    return golden


def _noise(rng: np.random.Generator, spec: InputSpec, shape: tuple[int, int]) -> np.ndarray:
    size = (*shape, *spec.row_shape)
    kind = np.dtype(spec.dtype).kind
    if kind == "f":
        return rng.uniform(-1, 1, size).astype(spec.dtype)
    return rng.integers(0, 2, size).astype(spec.dtype)


def _manifest(files: dict[str, bytes], spec: GraphSpec, described: Described) -> Manifest:
    return Manifest.model_validate(
        {
            "format": "carry-bundle/1",
            "name": described.name,
            "version": described.version,
            "title": described.title or described.name,
            "description": f"Brought along from {described.source}.",
            "task": "tensor",
            "graph": spec,
            "golden": {"file": "golden.npz", "tolerance": described.tolerance},
            "training": {
                "recipe": {},
                "command": described.command,
                "seed": 0,
                "versions": library_versions(),
                "data": [
                    {
                        "name": described.source,
                        "sha256": hashlib.sha256(files["model.onnx"]).hexdigest(),
                        "rows": 0,
                        "licence": described.licence,
                        "note": "the graph itself; what it was trained on is not known here",
                    }
                ],
                "weights_licence": described.licence,
            },
            "quality": (),
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
            "manifest_sha256": _NOT_SEALED,
        }
    ).sealed()


def _card(manifest: Manifest) -> str:
    graph = manifest.graph
    fed = [
        f"| {spec.role} | `{spec.name}` | {spec.dtype} | {describe_shape(spec.shape)}"
        + (f", of which {spec.overlap} repeat the end of the one before" if spec.overlap else "")
        + (f" = {spec.value}" if spec.role == "constant" else "")
        + " |"
        for spec in graph.inputs
    ]
    carried = [
        f"| state | `{state.input}` ← `{state.output}` | {state.dtype} |"
        f" {describe_shape(state.shape)} |"
        for state in graph.states
    ]
    answered = [
        f"| answer | `{spec.name}` | {spec.dtype} | {describe_shape(spec.shape)} |"
        for spec in graph.outputs
    ]
    table = "\n".join([*fed, *carried, *answered])
    source = manifest.training.data[0]
    return (
        f"# {manifest.title}\n\nBrought along from `{source.name}` (SHA-256 `{source.sha256}`,"
        f" licence: {source.licence}).\n\nIts answers were not measured here. What was checked:"
        " step by step = whole, in uneven pieces = whole, alone = among others, and again = the"
        f" same, within {manifest.golden.tolerance:g}.\n\n| | tensor | type | shape |\n|---|---|---"
        f"|---|\n{table}\n"
    )
