"""Bodies of `POST /v1/steps` and its answer."""

from pydantic import BaseModel, ConfigDict, Field

from service.api.codec.fields import SessionName
from service.api.codec.schemas import Prediction, Problem, StepBody


class BulkStep(StepBody):
    """One row: a step, and of which session."""

    session: SessionName


class BulkBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    steps: list[BulkStep] = Field(min_length=1, max_length=10_000)


class BulkResult(BaseModel):
    """As the answer to a step, or why there is none."""

    session: str
    status: int = Field(description="What HTTP would have answered: 200, or that of `error`.")
    step: int | None = None
    expires_at: str | None = None
    prediction: Prediction | None = None
    predictions: list[Prediction] | None = None
    replayed: bool | None = None
    error: Problem | None = None


class BulkAnswer(BaseModel):
    results: list[BulkResult] = Field(description="In the order of `steps`.")
