"""What is asked and answered: bodies of requests, and the calls of what needs no open session."""

import secrets
from collections.abc import Generator, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Literal, NamedTuple, TypedDict, Unpack
from urllib.parse import quote, urlencode

from service.client import json_values
from service.client.problems import NotFoundError
from service.client.retry import NoResponse, Request, Response, Retries, RetryBudget
from service.client.tables import frame_of

Rows = Any
"""Observations: rows by column name or in the model's order, where None and NaN are missing values;
a single row; an array `[T, F]`; a frame of pandas, polars (a lazy one is collected) or Arrow; or a
text. An index of times gives the `start` of a history or an instance; a step has no time of its
own, its rows follow the last one."""
Json = dict[str, Any]


class Observed(TypedDict, total=False):
    """What a step feeds besides rows, and what it asks for."""

    text: str
    tensors: Mapping[str, Any]
    emit: Literal["last", "all"]
    final: bool


class Writing(TypedDict, total=False):
    """What a model that writes reads first, how much it writes, and how it chooses."""

    text: str
    max_tokens: int
    temperature: float
    seed: int


class Opening(TypedDict, total=False):
    """How a session is opened; one without a name gets one."""

    session: str
    version: str
    start: str | date
    history: Any
    ttl_s: float
    metadata: Mapping[str, Any]
    if_exists: Literal["fail", "resume"]
    replay: int
    checkpoints: int
    checkpoint_every: int
    keep_observations: int


class Options(TypedDict, total=False):
    """Of a prediction without a session."""

    version: str
    quantiles: Sequence[float]
    horizon: int


class StepReply(NamedTuple):
    """What a step is answered; `to_frame` makes a table of it.

    `step` is the count after it; `is_replayed` if the service had applied it before.

    `prediction` is the service's JSON; with `emit="all"` there are `predictions`, one each; `text`
    is what a model wrote.
    """

    step: int
    prediction: Json | None
    predictions: list[Json] | None
    is_replayed: bool
    text: str | None = None

    def to_frame(self) -> Any:  # noqa: ANN401 -- of whichever library there is
        """As `service.client.to_frame`, with the step that each prediction was made after."""
        predictions = self.predictions or ([] if self.prediction is None else [self.prediction])
        first = self.step - len(predictions) + 1
        return frame_of(predictions, "step", first)


def step_reply(answer: Response) -> StepReply:
    return reply_of(answer.body(), is_replayed=answer.is_replayed)


def reply_of(body: Json, *, is_replayed: bool) -> StepReply:
    prediction, predictions = body.get("prediction"), body.get("predictions")
    return StepReply(body["step"], prediction, predictions, is_replayed, body.get("text"))


def call_for(method: str, path: str, body: Mapping[str, Any] | None = None) -> Request:
    """Written at once: what the caller changes later is not sent."""
    content = b"" if body is None else json_values.written(body)
    return Request(method, path, content)


def session_path(name: str) -> str:
    return f"/v1/sessions/{quote(name, safe='')}"


def name_for(session: str | None) -> str:
    """Every session is named here, so that to open it again opens no second one."""
    return secrets.token_urlsafe(16) if session is None else session


def predicted(
    retries: Retries, model: str, instances: Iterable[Any], **options: Unpack[Options]
) -> Generator[Request, Response | NoResponse, list[Json]]:
    """One prediction for each instance."""
    rest: Json = dict(options)
    version = rest.pop("version", None)
    path = f"/v1/models/{quote(model, safe='')}"
    path += "" if version is None else f"/versions/{quote(version, safe='')}"
    asked = [json_values.instance_of(each) for each in instances]
    call = call_for("POST", f"{path}/predict", {"instances": asked} | rest)
    answer = yield from RetryBudget(retries).answered(call)
    predictions: list[Json] = answer.body()["predictions"]
    return predictions


def closed(retries: Retries, session: str) -> Generator[Request, Response | NoResponse, None]:
    """The session was closed, by this client or another."""
    budget = RetryBudget(retries)
    try:
        yield from budget.answered(Request("DELETE", session_path(session)))
    except NotFoundError:
        if budget.num_tries == 1:  # else an earlier try may have closed it
            raise


def models(retries: Retries) -> Generator[Request, Response | NoResponse, list[Json]]:
    """What is served."""
    answer = yield from RetryBudget(retries).answered(Request("GET", "/v1/models"))
    found: list[Json] = answer.body()["models"]
    return found


def listed(
    retries: Retries, model: str | None, cursor: str | None
) -> Generator[Request, Response | NoResponse, Json]:
    """A page of the open sessions."""
    query = {"model": model, "cursor": cursor}
    given = urlencode({name: value for name, value in query.items() if value is not None})
    answer = yield from RetryBudget(retries).answered(Request("GET", f"/v1/sessions?{given}"))
    return answer.body()
