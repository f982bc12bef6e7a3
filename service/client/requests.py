"""Bodies of requests and replies, and the requests that need no open session."""

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
text. A time index sets the `start` of a history or an instance. A step has no `start`: its rows
follow the last one."""
Json = dict[str, Any]


class Observed(TypedDict, total=False):
    """What a step feeds besides rows, and its options."""

    text: str
    tensors: Mapping[str, Any]
    emit: Literal["last", "all"]
    final: bool


class Writing(TypedDict, total=False):
    """What a model reads before it writes, how much it writes, and how it samples."""

    text: str
    max_tokens: int
    temperature: float
    seed: int


class Opening(TypedDict, total=False):
    """Options of a new session; without `session` it gets a random name."""

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
    """Options of a prediction without a session."""

    version: str
    quantiles: Sequence[float]
    horizon: int


class StepReply(NamedTuple):
    """The reply to a step; `to_frame` turns it into a table.

    `step` is the count after it; `is_replayed` tells that the service had applied it before.

    `prediction` is the service's JSON; with `emit="all"`, `predictions` has one for each
    observation. `text` is what a model wrote.
    """

    step: int
    prediction: Json | None
    predictions: list[Json] | None
    is_replayed: bool
    text: str | None = None

    def to_frame(self) -> Any:  # noqa: ANN401 -- of the installed library
        """As `service.client.to_frame`, with a column `step`."""
        predictions = self.predictions or ([] if self.prediction is None else [self.prediction])
        first = self.step - len(predictions) + 1
        return frame_of(predictions, "step", first)


def step_reply(response: Response) -> StepReply:
    return reply_of(response.body(), is_replayed=response.is_replayed)


def reply_of(body: Json, *, is_replayed: bool) -> StepReply:
    prediction, predictions = body.get("prediction"), body.get("predictions")
    return StepReply(body["step"], prediction, predictions, is_replayed, body.get("text"))


def request_for(method: str, path: str, body: Mapping[str, Any] | None = None) -> Request:
    """Encodes the body at once: later changes of the caller's objects are not sent."""
    content = b"" if body is None else json_values.encode(body)
    return Request(method, path, content)


def session_path(name: str) -> str:
    return f"/v1/sessions/{quote(name, safe='')}"


def name_for(session: str | None) -> str:
    """The client chooses the name, so a retried opening does not open a second session."""
    return secrets.token_urlsafe(16) if session is None else session


def predict(
    retries: Retries, model: str, instances: Iterable[Any], **options: Unpack[Options]
) -> Generator[Request, Response | NoResponse, list[Json]]:
    rest: Json = dict(options)
    version = rest.pop("version", None)
    path = f"/v1/models/{quote(model, safe='')}"
    path += "" if version is None else f"/versions/{quote(version, safe='')}"
    body = {"instances": [json_values.instance_of(each) for each in instances]} | rest
    request = request_for("POST", f"{path}/predict", body)
    response = yield from RetryBudget(retries).run(request)
    predictions: list[Json] = response.body()["predictions"]
    return predictions


def close_session(
    retries: Retries, session: str
) -> Generator[Request, Response | NoResponse, None]:
    budget = RetryBudget(retries)
    try:
        yield from budget.run(Request("DELETE", session_path(session)))
    except NotFoundError:
        if budget.num_tries == 1:  # else an earlier try may have closed it
            raise


def list_models(retries: Retries) -> Generator[Request, Response | NoResponse, list[Json]]:
    response = yield from RetryBudget(retries).run(Request("GET", "/v1/models"))
    served: list[Json] = response.body()["models"]
    return served


def list_sessions(
    retries: Retries, model: str | None, cursor: str | None
) -> Generator[Request, Response | NoResponse, Json]:
    """One page of the open sessions."""
    query = {"model": model, "cursor": cursor}
    encoded = urlencode({name: value for name, value in query.items() if value is not None})
    response = yield from RetryBudget(retries).run(Request("GET", f"/v1/sessions?{encoded}"))
    return response.body()
