"""Messages of a stream: steps' bodies and a little more come in, their answers go out."""

from typing import Annotated, Any

import orjson
from pydantic import BaseModel, Field, Strict

from service.api.codec.fields import MAX_WHOLE, SessionName, Text
from service.api.codec.schemas import Problem, StepAnswer, StepBody

_MAX_ECHO_CHARS = 128
_WholeId = Annotated[int, Strict(), Field(ge=-MAX_WHOLE, le=MAX_WHOLE)]


class StreamStep(StepBody):
    """A message to a stream of one session."""

    id: Annotated[Text, Field(max_length=128)] | _WholeId | None = Field(
        default=None, description="Of the client's choice; the answer carries it."
    )


class StreamStepOfAny(StreamStep):
    """A message to a stream of many sessions."""

    session: SessionName


class StreamHello(BaseModel):
    """What a stream of one session begins with: the next message continues at `step`."""

    session: str
    step: int
    replay: int = Field(
        description="How many of the last replies the session keeps. Leave no more messages than"
        " these unanswered, and each can be sent again over another connection."
    )


class StreamAnswer(StepAnswer):
    """The answer to a step, with the `id` of its message."""

    id: str | int | None = None
    replayed: bool | None = Field(
        default=None, description="True where the step had been applied before."
    )


class StreamProblem(Problem):
    """Answers a message that was refused; the stream goes on."""

    id: str | int | None = None
    step: int | None = Field(default=None, description="The `step` of the message.")
    session: str | None = None


def echo_of_any(data: bytes) -> dict[str, Any]:
    """Of a message that does not fit its schema, what says which one it was."""
    try:
        said = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(said, dict):
        return {}
    kinds = {"id": (int, str), "step": (int,), "session": (str,)}
    echo = {name: said[name] for name, kind in kinds.items() if type(said.get(name)) in kind}
    return {name: value for name, value in echo.items() if len(str(value)) <= _MAX_ECHO_CHARS}
