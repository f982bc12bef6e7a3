"""The manifest: everything that the service needs to know about a bundle's graph, in one file.

It contains the SHA-256 of every other file and of itself, so a bundle is either exactly what the
exporter wrote, or refused. `make schema` writes the JSON Schema in `models/` from this module.
"""

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.contract.characters import GenerateSpec
from service.contract.errors import BundleError
from service.contract.graph import FileName, GraphSpec
from service.contract.tensors import (
    Axis,
    InputRole,
    InputSpec,
    OutputRole,
    OutputSpec,
    describe_shape,
)
from service.contract.text import TextSpec

FORMAT = "carry-bundle/1"
MANIFEST_FILE = "manifest.json"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
ModelVersion = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]
COLUMN_NAME = r"^[^\s\x00-\x1f]{1,64}$"
Task = Literal["forecast", "classify", "generate", "tag", "tensor"]

_NEEDS: Mapping[Task, tuple[tuple[str, ...], tuple[InputRole, ...], tuple[OutputRole, ...]]] = {
    "forecast": (("forecast",), ("x", "length"), ("quantiles", "mean")),
    "classify": (("text", "labels"), ("tokens", "length"), ("probabilities",)),
    "generate": (("generate",), ("tokens", "length"), ("logits",)),
    "tag": (("tag", "labels"), ("x", "length"), ("probabilities",)),
    "tensor": ((), ("tensor",), ("value",)),
}
"""Task → the fields of the manifest, roles of inputs and roles of outputs that it needs."""

_UNIT_S = {"W": 604_800, "D": 86_400, "H": 3600, "M": 60, "S": 1}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ColumnSpec(_Part):
    """One column of an observation row, in the order of the `x` input's last axis."""

    name: Annotated[str, Field(pattern=COLUMN_NAME)]
    role: Literal["target", "past"]
    unit: str = ""
    description: str = ""


class ForecastSpec(_Part):
    """What a forecaster reads and what it answers.

    Row n of a series lies at `start + n × frequency_s`. `quantiles` are the levels of the last
    axis of the output with that role; `context_steps` is the history that makes it accurate.
    """

    columns: tuple[ColumnSpec, ...] = Field(min_length=1)
    frequency: Annotated[str, Field(pattern=r"^P([0-9]+[DW]|T[0-9]+[HMS])$")]
    frequency_s: int = Field(ge=1)
    horizon: int = Field(ge=1)
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...]
    context_steps: int = Field(ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError("expected distinct names of columns, found duplicates")
        if sum(column.role == "target" for column in self.columns) != 1:
            raise ValueError("expected exactly one column with role 'target'")
        if list(self.quantiles) != sorted(set(self.quantiles)):
            raise ValueError("expected quantiles in ascending order, without duplicates")
        count, unit = re.fullmatch(r"PT?([0-9]+)([DHMSW])", self.frequency).groups()  # type: ignore[union-attr]  # the field's pattern
        if int(count) * _UNIT_S[unit] != self.frequency_s:
            raise ValueError(f"frequency {self.frequency} is not {self.frequency_s} seconds")
        return self

    @property
    def target(self) -> ColumnSpec:
        return next(column for column in self.columns if column.role == "target")


class TagSpec(_Part):
    """What a tagger reads: rows of `columns`, each of which gets one of the manifest's `labels`."""

    columns: tuple[ColumnSpec, ...] = Field(min_length=1)


class GoldenSpec(_Part):
    """The recorded run. A value may differ from it by `tolerance × max(scale, |recorded|)`.

    `scales` has the outputs, and carried states, whose scale is not 1: that of a forecast is the
    spread of its series, whatever unit that is in.
    """

    file: FileName
    tolerance: float = Field(gt=0, le=1e-2)
    scales: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )


class DataSource(_Part):
    """Where the weights come from, and what that means for who uses them."""

    name: str
    sha256: Sha256
    rows: int = Field(ge=0, description="0 where that is not known.")
    licence: str
    note: str = ""


class TrainingSpec(_Part):
    """Enough to train the same model again."""

    recipe: dict[str, Any]
    command: str
    seed: int
    versions: dict[str, str]
    data: tuple[DataSource, ...] = Field(min_length=1)
    weights_licence: str
    weights_note: str = ""


class QualityFigure(_Part):
    """One measured figure, with the baseline measured on the same rows where there is one."""

    metric: str
    value: float
    split: str
    baseline: str | None = None
    baseline_value: float | None = None


class Manifest(_Part):
    """A bundle's `manifest.json`."""

    format: Literal["carry-bundle/1"]
    name: ModelName
    version: ModelVersion
    title: str
    description: str
    task: Task
    graph: GraphSpec
    forecast: ForecastSpec | None = None
    text: TextSpec | None = None
    generate: GenerateSpec | None = None
    tag: TagSpec | None = None
    labels: tuple[str, ...] | None = None
    initial_states: FileName | None = None
    compatible_states: tuple[Sha256, ...] = Field(
        default=(),
        description="Of other versions' graphs: a state of theirs means the same to this one, so"
        " their sessions may go on with it as it is.",
    )
    golden: GoldenSpec
    training: TrainingSpec
    quality: tuple[QualityFigure, ...]
    files: dict[FileName, Sha256]
    manifest_sha256: Sha256

    @model_validator(mode="after")
    def _task_has_its_parts(self) -> Self:
        parts, inputs, outputs = _NEEDS[self.task]
        if self.generate is not None and self.generate.columns is not None:
            inputs = (*inputs, "x")
        missing = [name for name in ("files", *parts) if not getattr(self, name)]
        missing += [f"an input with role {r!r}" for r in inputs if not self.graph.input_with(r)]
        missing += [f"an output with role {r!r}" for r in outputs if not self.graph.output_with(r)]
        if missing:
            raise ValueError(f"task {self.task!r} needs {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _graph_fits_task(self) -> Self:
        """The service can feed every input, and sizes match the task's fields."""
        expected: dict[str, tuple[Axis, ...]] = {"length": ("batch",)}
        if self.forecast is not None:
            expected["x"] = ("batch", "time", len(self.forecast.columns))
            expected["time"] = ("batch", "time")
            expected["mean"] = ("batch", "time", self.forecast.horizon)
            expected["quantiles"] = (*expected["mean"], len(self.forecast.quantiles))
        if self.task == "tensor":
            self.graph.require_foreign()
            return self
        if self.labels is not None:
            expected["tokens"] = ("batch", "time")
            expected["probabilities"] = ("batch", "time", len(self.labels))
        if self.generate is not None:
            expected["tokens"] = ("batch", "time")
            expected["logits"] = ("batch", "time", len(self.generate.characters))
            if self.generate.columns is not None:
                expected["x"] = ("batch", "time", len(self.generate.columns))
        if self.tag is not None:
            expected["x"] = ("batch", "time", len(self.tag.columns))
        if not self.graph.takes_rows:
            raise ValueError('expected one "batch" axis in every state')
        specs: list[InputSpec | OutputSpec] = [*self.graph.inputs, *self.graph.outputs]
        for spec in specs:
            if spec.role not in expected:
                raise ValueError(f"{spec.name!r}: task {self.task!r} has no role {spec.role!r}")
            if spec.shape != expected[spec.role]:
                raise ValueError(
                    f"{spec.name!r}: expected {describe_shape(expected[spec.role])} for role"
                    f" {spec.role!r}, found {describe_shape(spec.shape)}"
                )
        return self

    @model_validator(mode="after")
    def _files_are_hashed(self) -> Self:
        named = {self.graph.file, self.golden.file}
        named |= {self.text.tokenizer} if self.text else set()
        named |= {self.initial_states} if self.initial_states else set()
        unhashed = sorted(named - set(self.files))
        if unhashed:
            raise ValueError(f"files without a SHA-256 in `files`: {unhashed}")
        return self

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns of a row or vector; None for models that read text or tensors."""
        if self.generate is not None:
            return self.generate.columns
        rows = self.forecast or self.tag
        return None if rows is None else tuple(column.name for column in rows.columns)

    def with_own_hash(self) -> Self:
        """The same manifest with the correct `manifest_sha256`."""
        fields = self.model_dump(mode="json")
        return self.model_validate(fields | {"manifest_sha256": _own_hash(fields)})

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read and check a manifest; `where` names it in messages.

    Raises:
        BundleError: not JSON, an unknown format, a field that is missing, unknown or of the wrong
            type, or a manifest changed after export.
    """
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: not valid JSON ({error}); export the bundle again") from None
    found = fields.get("format") if isinstance(fields, dict) else None
    if found != FORMAT:
        raise BundleError(
            f"{where}: expected format {FORMAT!r}, found {found!r}: use a service of the exporter's"
            " version, or export again with this version"
        )
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        raise BundleError(f"{where}: {_first_problems(error)}") from None
    expected = _own_hash(fields)  # of the file: later versions add fields with defaults
    if manifest.manifest_sha256 != expected:
        raise BundleError(
            f"{where}: expected manifest_sha256 {expected[:12]}…, found"
            f" {manifest.manifest_sha256[:12]}…: it was changed after export; export it again"
        )
    return manifest


def json_schema() -> str:
    """The JSON Schema that `make schema` writes to `models/manifest.schema.json`."""
    schema = Manifest.model_json_schema()
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _own_hash(fields: dict[str, Any]) -> str:
    rest = {name: value for name, value in fields.items() if name != "manifest_sha256"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _first_problems(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'manifest'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_input=False)[:3]
    )


if __name__ == "__main__":
    sys.stdout.write(json_schema())
