"""A graph from elsewhere → a bundle: recorded, checked in every way it may be fed, then written.

Rule 1: nothing is written before all checks have passed.
Rule 2: the golden run is of noise, drawn from a fixed seed: it proves how the graph is fed, and
        nothing of how good it is.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.contract.bundle import Bundle, read_bundle, write_arrays, write_bundle
from service.contract.calls import Run
from service.contract.errors import GoldenMismatchError
from service.contract.golden import GoldenRun, check_golden, record_golden
from service.contract.graph import GraphSpec
from service.contract.manifest import Manifest
from service.contract.state import StateLayout
from service.contract.tensors import InputSpec, describe_shape
from training.export.versions import library_versions
from training.foreign.choices import GraphCallError, ImportGraphError

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


def refuse_described(described: Described, models: Path) -> None:
    """What can be refused before the graph is looked at.

    Raises:
        ImportGraphError: a name, version or tolerance that no manifest can have, or a version that
            is there already.
    """
    for option, value, pattern, expected in (
        ("--name", described.name, r"[a-z0-9][a-z0-9._-]{0,63}",
         "small letters, digits and . _ -, at most 64, the first a letter or digit"),
        ("--version", described.version, r"[1-9][0-9]{0,8}", "a whole number from 1 on"),
    ):  # fmt: skip
        if not re.fullmatch(pattern, value, re.ASCII):
            raise ImportGraphError(f"{option} {value!r}: expected {expected}")
    if not 0 < described.tolerance <= 1e-2:
        raise ImportGraphError(
            f"--tolerance {described.tolerance:g}: expected more than 0 and at most 0.01"
        )
    folder = models / described.name / described.version
    if folder.exists():
        raise ImportGraphError(
            f"{folder} is there already: open sessions could not go on with another graph; give"
            " another --version, or remove it"
        )


def write_foreign(
    graph: bytes, run: Run, spec: GraphSpec, described: Described, models: Path, step_hint: str = ""
) -> Manifest:
    """Record, check and write `models/<name>/<version>/`; `step_hint` is what to say if
    steps one by one give something else than all at once.

    Raises:
        ImportGraphError: its states never change, a way of feeding it gives other answers, or the
            folder cannot be written.
    """
    files = {"model.onnx": graph}
    try:
        golden = _record(run, spec)
    except GraphCallError as error:
        raise ImportGraphError(f"{error}; {step_hint}" if step_hint else str(error)) from None
    files["golden.npz"] = write_arrays(golden.to_arrays())
    manifest = _manifest(files, spec, described, golden.spreads())
    files["CARD.md"] = _card(manifest).encode()
    manifest = _manifest(files, spec, described, golden.spreads())
    try:
        check_golden(Bundle(manifest, files), run)
    except GoldenMismatchError as error:
        raise ImportGraphError(_mismatch(str(error), spec, described, step_hint)) from None
    refuse_described(described, models)  # it may have been written meanwhile
    folder = models / manifest.name / manifest.version
    try:
        sealed = write_bundle(folder, manifest, files)
        read_bundle(folder)
    except OSError as error:
        raise ImportGraphError(
            f"{folder} cannot be written: {error.strerror or error}; give another --models folder"
        ) from None
    return sealed


def _mismatch(error: str, spec: GraphSpec, described: Described, step_hint: str) -> str:
    """The failed check, and what it means for a graph from elsewhere."""
    way = next((way for way in _EXPECTED if f"fed {way}: " in error), "whole")
    found = error.partition(f"fed {way}: ")[2].partition(";")[0] or error
    pairs = ", ".join(f"{state.input}={state.output}" for state in spec.states)
    others = {
        "whole": "export it in evaluation mode, without random numbers (dropout)",
        "untouched": "say another --length",
        "alone": "say --one-row: a call then takes one row",
    }
    remedy = others.get(way) or (
        step_hint
        if "backwards" in step_hint
        else f"say --state INPUT=OUTPUT if states are paired wrongly ({pairs}) or missing"
        + (f", or {step_hint}" if step_hint else "")
    )
    return (
        f"{described.source}: expected {_EXPECTED[way]}, but {found}: {remedy}; a difference that"
        " is only rounding may be allowed with --tolerance, up to 0.01"
    )


_EXPECTED = {
    "whole": "the same answers for the same input",
    "untouched": "a row of length 0 to keep its state",
    "stepwise": "the same answers step by step as for all steps at once",
    "chunked": "the same answers in uneven pieces as for all steps at once",
    "alone": "the same answers for a row alone as among others",
}


def _record(run: Run, spec: GraphSpec) -> GoldenRun:
    rng = np.random.default_rng(0)
    has_length = spec.input_with("length") is not None
    length = np.array([*_LENGTHS, 0] if has_length else _LENGTHS)
    shape = (len(length), int(length.max()))
    inputs = {tensor.name: _noise(rng, tensor, shape) for tensor in spec.tensors}
    layout = StateLayout(spec.carried, schema=spec.state_schema)
    golden = record_golden(spec, layout, inputs, length, run)
    for name, values in (*golden.outputs.items(), *golden.states.items()):
        if not np.isfinite(values.astype(np.float64)).all():
            raise ImportGraphError(
                f"{name!r} is not finite after noise between -1 and 1 (0 and 1 for whole numbers):"
                " the service would refuse such a step; check the weights, or export in float32"
            )
    unchanged = [
        f"{state.input}={state.output}"
        for state in spec.carried
        if not golden.states[state.output][: len(_LENGTHS)].any()
    ]
    if unchanged:
        raise ImportGraphError(
            f"states {', '.join(unchanged)} are still zeros after {max(_LENGTHS)} steps of noise:"
            " are they paired rightly? say --state INPUT=OUTPUT, or --state INPUT= for an input"
            " that is not a state"
        )
    return golden


def _noise(rng: np.random.Generator, spec: InputSpec, shape: tuple[int, int]) -> np.ndarray:
    size = (*shape, *spec.row_shape)
    kind = np.dtype(spec.dtype).kind
    if kind == "f":
        return rng.uniform(-1, 1, size).astype(spec.dtype)
    return rng.integers(0, 2, size).astype(spec.dtype)


def _manifest(
    files: dict[str, bytes], spec: GraphSpec, described: Described, scales: dict[str, float]
) -> Manifest:
    return Manifest.model_validate(
        {
            "format": "carry-bundle/1",
            "name": described.name,
            "version": described.version,
            "title": described.title or described.name,
            "description": f"Imported from {described.source}.",
            "task": "tensor",
            "graph": spec,
            "golden": {
                "file": "golden.npz",
                "tolerance": described.tolerance,
                "scales": scales,
            },
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
    ).with_own_hash()


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
        f"# {manifest.title}\n\nImported from `{source.name}` (SHA-256 `{source.sha256}`,"
        f" licence: {source.licence}).\n\nIts answers were not measured here. What was checked:"
        " step by step = whole, in uneven pieces = whole, alone = among others, and again = the"
        f" same, within {manifest.golden.tolerance:g}.\n\n| | tensor | type | shape |\n|---|---|---"
        f"|---|\n{table}\n"
    )
