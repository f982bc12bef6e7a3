"""Bodies of requests and answers. Field names are the contract of the README and of clients."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.codec.fields import MAX_WHOLE, Metadata, Row, SessionName, StepNumber, Text, Time

_ROWS = Field(
    default=None,
    description="Rows in time order: objects by column name, or lists in the manifest's order;"
    " null is a missing value.",
)
_TENSORS = Field(
    default=None,
    description='Of a model of tensors, by name: lists, or {"shape", "datatype", "data"} as in the'
    " Open Inference Protocol. Each is of one observation, or has one more axis in front for"
    " several.",
)
_START = Field(
    default=None, description="Time of the first row (RFC 3339; a date means 00:00 UTC)."
)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Written(_Body):
    """How much a model writes, and how it chooses."""

    max_tokens: int | None = Field(
        default=None, ge=1, description="The most characters to write; 100 where absent."
    )
    temperature: float | None = Field(
        default=None,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="0 takes the likeliest character, 1 (where absent) each by its probability.",
    )
    seed: int | None = Field(
        default=None, ge=0, le=MAX_WHOLE, description="The same seed, the same text."
    )


class Instance(Written):
    """One series of rows, one text, or one prompt to write on, according to the model's task."""

    id: Text | None = None
    start: Time | None = _START
    observations: list[Row] | None = _ROWS
    text: Text | None = None
    tensors: dict[str, Any] | None = _TENSORS
    prompt: Text | None = Field(default=None, description="What a model that writes goes on from.")


class PredictRequest(_Body):
    instances: list[Instance] = Field(min_length=1)
    quantiles: list[float] | None = Field(
        default=None, description="Which of the model's levels to answer; all where absent."
    )
    horizon: int | None = Field(default=None, ge=1, description="At most the model's horizon.")


class SessionCreate(_Body):
    model: str
    version: str | None = Field(default=None, description="The default version where absent.")
    session: SessionName | None = Field(default=None, description="A name of the client's choice.")
    ttl_s: float | None = Field(
        default=None, gt=0, description="Life after the last committed step."
    )
    start: Time | None = _START
    history: Instance | None = Field(default=None, description="Past observations to warm up on.")
    metadata: Metadata = Field(
        default_factory=dict, description="Kept with the session: JSON of at most 16 KiB."
    )
    if_exists: Literal["fail", "resume"] = "fail"
    replay: int = Field(
        default=1, ge=1, le=MAX_WHOLE, description="How many of the last replies are kept."
    )
    checkpoints: int = Field(
        default=0, ge=0, le=MAX_WHOLE, description="How many past states are kept to rewind to."
    )
    checkpoint_every: int = Field(
        default=1,
        ge=1,
        le=MAX_WHOLE,
        description="Observations that lie at least between two of them.",
    )
    keep_observations: int = Field(
        default=0,
        ge=0,
        le=MAX_WHOLE,
        description='How many of the last are kept, for an upgrade by "replay"; none of tensors.',
    )


class Observed(_Body):
    """What a step and a preview share."""

    step: StepNumber | None = Field(
        default=None,
        description="The count that the client believes is current. With it a step is applied"
        " exactly once; without it, at least once.",
    )
    observations: list[Row] | None = _ROWS
    text: Text | None = Field(default=None, description="The next chunk, cut anywhere.")
    tensors: dict[str, Any] | None = _TENSORS
    emit: Literal["last", "all"] = "last"


class StepBody(Observed):
    final: bool = Field(default=False, description="This chunk ends the text; the session closes.")


class PreviewBody(Observed):
    pass


class ForkBody(_Body):
    session: SessionName | None = Field(default=None, description="A name of the client's choice.")
    ttl_s: float | None = Field(default=None, gt=0, description="The source's where absent.")
    metadata: Metadata | None = Field(default=None, description="The source's where absent.")


class RewindBody(_Body):
    step: StepNumber = Field(description="The step of a kept checkpoint.")


class UpgradeBody(_Body):
    version: Text = Field(description="A loaded version of the session's model.")
    policy: Literal["carry", "replay"] = Field(
        default="carry",
        description="carry: the state as it is, where it means the same to both versions; replay:"
        " a state made from the kept observations.",
    )
    force: bool = Field(
        default=False,
        description="Of carry: although the state means something else to the other weights; its"
        " layout must agree all the same.",
    )


class GenerateBody(Written):
    """Write on in a session, after `text` where there is some."""

    step: StepNumber | None = Field(
        default=None, description="The count that the client believes is current, as for a step."
    )
    text: Text | None = Field(default=None, description="Read before anything is written.")
    observations: list[Row] | None = Field(
        default=None,
        description="Of a model that writes about a vector: the one row of it, read before the"
        " text. It begins anew, whatever the session has read.",
    )


class Forecast(BaseModel):
    """`start` is the time of the first predicted row, null for a session without `start`."""

    id: str | None = None
    start: str | None
    frequency: str
    mean: list[float]
    quantiles: dict[str, list[float]]


class Classification(BaseModel):
    id: str | None = None
    label: str
    probabilities: dict[str, float]


class Tensor(BaseModel):
    shape: list[int]
    datatype: str = Field(examples=["FP32"])
    data: list[Any] = Field(description="In row-major order.")


class Tensors(BaseModel):
    """What a model of tensors answers, by the names of its outputs."""

    id: str | None = None
    tensors: dict[str, Tensor]


class Tagging(BaseModel):
    """A label for every row of the request."""

    id: str | None = None
    labels: list[str]
    probabilities: list[dict[str, float]]


class NextCharacter(BaseModel):
    """What is expected next, and how likely the likeliest characters are."""

    id: str | None = None
    text: str | None = Field(default=None, description="What was written; of predictions only.")
    next: str
    probabilities: dict[str, float]


Prediction = Forecast | Classification | Tagging | NextCharacter | Tensors


class PredictAnswer(BaseModel):
    model: str
    version: str
    predictions: list[Prediction]


class SessionAnswer(BaseModel):
    session: str
    model: str
    version: str
    step: int
    expires_at: str
    prediction: Prediction | None = None


class StepAnswer(BaseModel):
    session: str
    step: int
    expires_at: str
    prediction: Prediction | None = None
    predictions: list[Prediction] | None = Field(
        default=None, description='With "emit": "all": one for each observation.'
    )


class UpgradeAnswer(SessionAnswer):
    from_version: str
    policy: str
    replayed: int = Field(description="Observations that the new version was run over.")
    divergence: dict[str, float] | None = Field(
        description="For a replay: how far the new prediction is from the last, at most, in each"
        " output; null where that is not kept or its version is gone."
    )


class GenerateAnswer(StepAnswer):
    text: str = Field(description="What was written.")


class SessionDetail(BaseModel):
    session: str
    model: str
    version: str
    step: int
    start: str | None
    created_at: str
    updated_at: str
    expires_at: str
    ttl_s: float
    age_s: float
    state_bytes: int
    state_norms: dict[str, float]
    pending_chars: int
    replay: int
    checkpoints: list[int] = Field(description="Steps that the session can be rewound to.")
    kept_observations: int
    metadata: dict[str, Any]


class SessionPage(BaseModel):
    sessions: list[SessionDetail]
    next_cursor: str | None = Field(description="Send it as `cursor`; null on the last page.")


class ModelSummary(BaseModel):
    name: str
    title: str
    task: str
    default_version: str
    versions: list[str]


class ModelList(BaseModel):
    models: list[ModelSummary]
    refused: dict[str, str] = Field(description="Bundles that failed a check, with the reason.")
    unloading: list[str] = Field(description="Versions whose sessions may be stepped a while more.")
    unloaded: list[str] = Field(description="Bundles that lie in the folder and are not loaded.")


class LiveFigures(BaseModel):
    """Since this process started."""

    steps: int
    predictions: int
    batches: int
    mean_batch_rows: float | None
    mean_ort_ms: float | None


class ModelDetail(BaseModel):
    name: str
    version: str
    default_version: str
    versions: list[str]
    title: str
    description: str
    task: str
    provider: str
    state_bytes: int
    columns: list[dict[str, str]] | None
    frequency: str | None
    horizon: int | None
    quantiles: list[float] | None
    context_steps: int | None
    needs_start: bool
    labels: list[str] | None
    language: str | None
    characters: str | None = Field(description="The alphabet of a model that writes.")
    quality: list[dict[str, Any]]
    data: list[dict[str, Any]]
    weights_licence: str
    weights_note: str
    live: LiveFigures


class Problem(BaseModel):
    """RFC 9457 `application/problem+json`."""

    type: str = Field(examples=["urn:carry:step-conflict"])
    title: str
    status: int
    detail: str = Field(description="What, expected, got, remedy.")
    expected_step: int | None = None
    kept_steps: list[int] | None = None
    retry_after_s: float | None = Field(
        default=None, description="On streams; HTTP says it in Retry-After."
    )
    errors: list[dict[str, str]] | None = Field(
        default=None, description="For 422: each place in the request and its problem."
    )
    request_id: str | None = Field(default=None, description="As in X-Request-ID and in the logs.")
    trace_id: str | None = Field(default=None, description="Of its trace, where there are any.")
