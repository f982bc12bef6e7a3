"""The manifest: everything the service needs to know about a bundle's graph, in one file.

It names every other file with its SHA-256 and carries a hash of itself, so a bundle is either
exactly what the exporter wrote or refused. The JSON Schema in `models/` is generated from here.
"""

import hashlib
import json
import re
import sys
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.contract.characters import GenerateSpec
from service.contract.errors import BundleError
from service.contract.graph import FileName, GraphSpec
from service.contract.tensors import Axis, InputSpec, OutputSpec, describe_shape

FORMAT = "carry-bundle/1"
MANIFEST_FILE = "manifest.json"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
ModelVersion = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]
COLUMN_NAME = r"^[^\s\x00-\x1f]{1,64}$"
Task = Literal["forecast", "classify", "generate", "tag", "tensor"]

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
            raise ValueError("two columns share a name")
        if sum(column.role == "target" for column in self.columns) != 1:
            raise ValueError("expected exactly one column with role 'target'")
        if list(self.quantiles) != sorted(set(self.quantiles)):
            raise ValueError("quantiles must rise strictly")
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


class TextSpec(_Part):
    """How text becomes the `tokens` input (see `service.contract.text`)."""

    tokenizer: FileName
    piece_rule: Literal["carry-pieces/1"]
    start_token: int = Field(ge=0)
    vocabulary_size: int = Field(ge=1)
    language: str

    @model_validator(mode="after")
    def _start_token_exists(self) -> Self:
        if self.start_token >= self.vocabulary_size:
            raise ValueError(f"start_token {self.start_token} lies outside the vocabulary")
        return self


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
        needed: dict[str, object] = {"files": self.files}
        if self.task == "forecast":
            needed |= {
                "forecast": self.forecast,
                "an input with role 'x'": self.graph.input_with("x"),
                "an output with role 'quantiles'": self.graph.output_with("quantiles"),
                "an output with role 'mean'": self.graph.output_with("mean"),
            }
        if self.task == "classify":
            needed |= {
                "text": self.text,
                "labels": self.labels,
                "an input with role 'tokens'": self.graph.input_with("tokens"),
                "an output with role 'probabilities'": self.graph.output_with("probabilities"),
            }
        if self.task == "generate":
            needed |= {
                "generate": self.generate,
                "an input with role 'tokens'": self.graph.input_with("tokens"),
                "an output with role 'logits'": self.graph.output_with("logits"),
            }
            if self.generate is not None and self.generate.columns is not None:
                needed["an input with role 'x'"] = self.graph.input_with("x")
        if self.task == "tag":
            needed |= {
                "tag": self.tag,
                "labels": self.labels,
                "an input with role 'x'": self.graph.input_with("x"),
                "an output with role 'probabilities'": self.graph.output_with("probabilities"),
            }
        if self.task == "tensor":
            needed |= {
                "an input with role 'tensor'": self.graph.tensors,
                "an output with role 'value'": self.graph.output_with("value"),
            }
        missing = [what for what, value in needed.items() if not value]
        if missing:
            raise ValueError(f"task {self.task!r} needs {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _graph_fits_task(self) -> Self:
        """Inputs that the service can feed, with the sizes that the task's parts say."""
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
        if self.graph.input_with("length") is None:
            raise ValueError("the graph has no input with role 'length'")
        specs: list[InputSpec | OutputSpec] = [*self.graph.inputs, *self.graph.outputs]
        for spec in specs:
            if spec.role not in expected:
                raise ValueError(f"{spec.name!r} has role {spec.role!r}, unknown to {self.task!r}")
            if spec.shape != expected[spec.role]:
                raise ValueError(
                    f"{spec.name!r} is {describe_shape(spec.shape)}, its role {spec.role!r} means"
                    f" {describe_shape(expected[spec.role])}"
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
        """What a row or a vector holds, by name; None where text or tensors are read."""
        if self.generate is not None:
            return self.generate.columns
        rows = self.forecast or self.tag
        return None if rows is None else tuple(column.name for column in rows.columns)

    def sealed(self) -> Self:
        """The same manifest with the right `manifest_sha256`."""
        fields = self.model_dump(mode="json")
        return self.model_validate(fields | {"manifest_sha256": _own_hash(fields)})

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read and check a manifest; `where` is how messages call it.

    Raises:
        BundleError: not JSON, a format this service does not know, a field that is missing,
            unknown or of the wrong kind, or a manifest changed after it was sealed.
    """
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: not valid JSON ({error}); export the bundle again") from None
    found = fields.get("format") if isinstance(fields, dict) else None
    if found != FORMAT:
        raise BundleError(
            f"{where}: format is {found!r}, this service reads {FORMAT!r};"
            " use a service of the exporter's version, or export again with this one"
        )
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        raise BundleError(f"{where}: {_first_problems(error)}") from None
    expected = _own_hash(fields)  # as they are written: fields that came later have defaults
    if manifest.manifest_sha256 != expected:
        raise BundleError(
            f"{where}: its own hash is {expected[:12]}…, but it says"
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
    problems = [
        f"{'.'.join(str(part) for part in problem['loc']) or 'manifest'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_input=False)[:3]
    ]
    return "; ".join(problems)


if __name__ == "__main__":
    sys.stdout.write(json_schema())
