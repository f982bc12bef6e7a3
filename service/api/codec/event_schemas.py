"""Data of Server-Sent Events, by the event that carries it."""

from pydantic import BaseModel, Field

from service.api.codec.schemas import GenerateAnswer, PredictAnswer, Problem, StepAnswer
from service.api.codec.stream_schemas import StreamHello


class EventGap(BaseModel):
    """Steps whose replies are not kept any more; `to_step` below `from_step`: it went back."""

    from_step: int
    to_step: int


class EventEnd(BaseModel):
    reason: str = Field(description="Why nothing more comes: deleted, final, expired and so on.")


class EventText(BaseModel):
    """The next characters that are written; not committed before `done`."""

    index: int = Field(description="Of which instance; 0 for a session.")
    text: str


class EventRestart(BaseModel):
    """Another writer was first: what was told of this instance is void."""

    index: int


EVENTS_OF_SESSION: dict[str, type[BaseModel]] = {
    "open": StreamHello, "step": StepAnswer, "gap": EventGap, "end": EventEnd
}  # fmt: skip
EVENTS_OF_WRITING: dict[str, tuple[type[BaseModel], ...]] = {
    "text": (EventText,),
    "restart": (EventRestart,),
    "done": (GenerateAnswer, PredictAnswer),
    "error": (Problem,),
}
