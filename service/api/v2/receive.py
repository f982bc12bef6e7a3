"""What comes in under `/v2`: bodies, unfolded, and the model that a request is for."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.api.body_reader.reader import BIG_BODY_BYTES
from service.api.compression import inflate
from service.api.context import Context
from service.api.methods import announced_bytes
from service.api.v2.body import HEADER, read_id
from service.api.v2.crowds import read_counted
from service.engine.models.loaded_model import LoadedModel
from service.engine.models.registry import Registry
from service.errors import (
    CarryError,
    MalformedError,
    ModelNotFoundError,
    QueueFullError,
    TooLargeError,
)

_Result = TypeVar("_Result")


def expected_model(registry: Registry, name: str, version: str | None) -> LoadedModel:
    """What the request is for, as far as its path says: a sequence may be of another version.

    Raises:
        ModelNotFoundError: there is none, nor one with which sequences may go on.
    """
    try:
        return registry.get(name, version)
    except ModelNotFoundError:
        for model in registry.retiring:
            if model.name == name and version in (None, model.version):
                return model
        raise


class Body(NamedTuple):
    """Unfolded; `json_bytes` where binary tensors may follow."""

    data: bytes
    json_bytes: int | None

    @property
    def is_big(self) -> bool:
        """Whether its JSON is parsed in another process."""
        num_bytes = len(self.data) if self.json_bytes is None else self.json_bytes
        return num_bytes > BIG_BODY_BYTES


async def receive(request: Request, max_bytes: int) -> Body:
    """The body of a request, whole.

    Raises:
        CarryError: it did not come whole, or its coding or its header is not one that is read.
    """
    encoding = ",".join(request.headers.getlist("content-encoding"))
    try:
        body = await request.body()
    except ClientDisconnect:
        raise MalformedError("the client disconnected in the middle of the body") from None
    data = inflate(body, encoding, max_bytes)
    said = request.headers.get(HEADER)
    if said is not None and not (said.isascii() and said.isdigit() and len(said) < 12):
        raise MalformedError(f"{HEADER} is {said[:40]!r}: expected the bytes of the JSON")
    return Body(data, None if said is None else int(said))


async def id_of(
    context: Context, request: Request, body: Body | None, error: Exception
) -> str | None:
    """The id of a request that failed, which may be before its body was read.

    It is not looked for in a big one that found the queue full, or was refused as too large: that
    would be to parse it after all.
    """
    limit = context.settings.max_body_bytes
    if body is not None:
        is_refused = isinstance(error, QueueFullError | TooLargeError)
        if is_refused and len(body.data[: body.json_bytes]) > BIG_BODY_BYTES:
            return None
    elif isinstance(error, QueueFullError):
        limit = min(limit, BIG_BODY_BYTES)
        announced = announced_bytes(request.headers.get("content-length", "").encode())
        if not 0 < announced <= limit:
            return None
    try:
        return await read(context, body or await receive(request, limit), read_id)
    except CarryError:
        return None


async def read(
    context: Context, body: Body, reading: Callable[[bytes, int | None], _Result]
) -> _Result:
    """What `reading` makes of a body: of a big one in the process that reads those."""
    if body.is_big:
        return await context.reader.call(read_counted, reading, context.settings, *body)
    return reading(*body)
