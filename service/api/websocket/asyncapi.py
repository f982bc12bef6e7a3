"""`/asyncapi.json`: the doors that OpenAPI cannot describe, WebSockets and Server-Sent Events.

AsyncAPI 3.0, made of the same classes as `/openapi.json` and the same close codes as are sent, so
that neither is written down twice.
"""

from functools import cache
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from service.api.codec.encode import Json, json_response
from service.api.codec.event_schemas import EVENTS_OF_SESSION, EVENTS_OF_WRITING
from service.api.codec.stream_schemas import (
    StreamAnswer,
    StreamHello,
    StreamProblem,
    StreamStep,
    StreamStepOfAny,
)
from service.api.stream_admission import SUBPROTOCOL
from service.api.websocket.close_codes import MEANINGS

PATH = "/asyncapi.json"
router = APIRouter(include_in_schema=False)

_SCHEMAS = "#/components/schemas/"
_IN_ORDER = (
    "Of one session, answers come in the order of its messages, each exactly once. Many may be in"
    " flight; after a cut connect again and send again, with its `step`, what was not answered:"
    " what was applied is answered from the kept replies. The header Idempotency-Key is refused."
)
_STEP_EXAMPLE = {"step": 2, "id": "a", "observations": [{"ridership": 20.1, "temp_max": 71.2}]}
_EXAMPLES: dict[type[BaseModel], Json] = {
    StreamHello: {"session": "my-station", "step": 2, "replay": 64},
    StreamStep: _STEP_EXAMPLE,
    StreamStepOfAny: {"session": "my-station"} | _STEP_EXAMPLE,
}


@router.get(PATH)
async def asyncapi(request: Request) -> Response:
    url = request.url
    return json_response(document(request.app.version, url.netloc, is_secure=url.scheme == "https"))


def document(version: str, host: str, *, is_secure: bool = False) -> Json:
    """The AsyncAPI document of a service at `host`."""
    tail = "s" if is_secure else ""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Carry: streams and events",
            "version": version,
            "description": "What is sent and heard over WebSockets and Server-Sent Events. All else"
            " is in /openapi.json.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "webSocket": _server(host, f"ws{tail}"),
            "events": _server(host, f"http{tail}"),
        },
        "channels": _channels(),
        "operations": _operations(),
        "components": _components(),
    }


def _server(host: str, protocol: str) -> Json:
    return {
        "host": host,
        "protocol": protocol,
        "security": [{"$ref": "#/components/securitySchemes/key"}],
    }


def _payloads() -> dict[str, tuple[type[BaseModel], ...]]:
    """Message → what it may hold."""
    return {
        "hello": (StreamHello,),
        "step": (StreamStep,),
        "stepOfAny": (StreamStepOfAny,),
        "answer": (StreamAnswer,),
        "problem": (StreamProblem,),
        **{_event(name): (model,) for name, model in EVENTS_OF_SESSION.items()},
        **{_event(name): models for name, models in EVENTS_OF_WRITING.items()},
    }


def _event(name: str) -> str:
    return f"event{name.capitalize()}"


@cache
def _components() -> Json:
    payloads = _payloads()
    return {
        "schemas": _schemas(payloads),
        "messages": {name: _message(name, models) for name, models in payloads.items()},
        "securitySchemes": {
            "key": {
                "type": "http",
                "scheme": "bearer",
                "description": "Where the server has CARRY_API_KEYS_FILE. Pages offer the"
                f" subprotocols `{SUBPROTOCOL}` and `carry.key.KEY` in place of the header.",
            }
        },
    }


def _schemas(payloads: dict[str, tuple[type[BaseModel], ...]]) -> Json:
    received = (StreamStep, StreamStepOfAny)
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (model, "validation" if model in received else "serialization")
        for each in payloads.values()
        for model in each
    ]
    _, definitions = models_json_schema(models, ref_template=_SCHEMAS + "{model}")
    schemas: Json = definitions["$defs"]
    return schemas


def _message(name: str, models: tuple[type[BaseModel], ...]) -> Json:
    refs = [{"$ref": _SCHEMAS + model.__name__} for model in models]
    message: Json = {"name": name, "payload": refs[0] if len(refs) == 1 else {"oneOf": refs}}
    if description := (models[0].__doc__ or "").strip():
        message["summary"] = description.split("\n\n")[0].replace("\n    ", " ")
    if models[0] in _EXAMPLES:
        message["examples"] = [{"name": "one", "payload": _EXAMPLES[models[0]]}]
    return message


def _channels() -> Json:
    events = {name: _event(name) for name in EVENTS_OF_SESSION}
    written = {name: _event(name) for name in EVENTS_OF_WRITING}
    return {
        "sessionStream": _channel(
            "/v1/sessions/{session}/stream",
            f"Steps of one session. The server speaks first: where the session stands. {_IN_ORDER}",
            ("hello", "step", "answer", "problem"),
        ),
        "stream": _channel(
            "/v1/stream",
            f"Steps of many sessions, each message with its `session`. {_IN_ORDER}",
            ("stepOfAny", "answer", "problem"),
        ),
        "sessionEvents": _channel(
            "/v1/sessions/{session}/events",
            "Server-Sent Events of every committed step; the event's id is the step, and"
            " `Last-Event-ID` goes on from there.",
            tuple(events.values()),
            is_socket=False,
        ),
        "sessionWriting": _channel(
            "/v1/sessions/{session}/generate",
            "What a model writes, a character at a time: the answer to a POST with"
            " `Accept: text/event-stream`. Committed with `eventDone`.",
            tuple(written.values()),
            is_socket=False,
        ),
        "modelWriting": _channel(
            "/v1/models/{model}/predict",
            "The same without a session.",
            tuple(written.values()),
            is_socket=False,
        ),
    }


def _channel(
    address: str, description: str, messages: tuple[str, ...], *, is_socket: bool = True
) -> Json:
    channel: Json = {
        "address": address,
        "description": description,
        "servers": [{"$ref": f"#/servers/{'webSocket' if is_socket else 'events'}"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }
    for parameter in ("session", "model"):
        if f"{{{parameter}}}" in address:
            channel["parameters"] = {parameter: {"description": f"The {parameter}'s name."}}
    if is_socket:
        channel["bindings"] = {"ws": {"method": "GET", "bindingVersion": "0.1.0"}}
        channel["x-close-codes"] = {str(int(code)): said for code, said in MEANINGS.items()}
    return channel


def _operations() -> Json:
    """From the server's side: it receives steps, and sends all else."""
    told = [_event(name) for name in EVENTS_OF_SESSION]
    written = [_event(name) for name in EVENTS_OF_WRITING]
    return {
        "greet": _operation("send", "sessionStream", ["hello"]),
        "step": _operation("receive", "sessionStream", ["step"], ["answer", "problem"]),
        "stepAny": _operation("receive", "stream", ["stepOfAny"], ["answer", "problem"]),
        "tell": _operation("send", "sessionEvents", told) | _over_http("GET"),
        "write": _operation("send", "sessionWriting", written) | _over_http("POST"),
        "writeAlone": _operation("send", "modelWriting", written) | _over_http("POST"),
    }


def _over_http(method: str) -> Json:
    return {"bindings": {"http": {"method": method, "bindingVersion": "0.3.0"}}}


def _operation(
    action: str, channel: str, messages: list[str], replies: list[str] | None = None
) -> Json:
    def refs(names: list[str]) -> list[Json]:
        return [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names]

    at: Json = {"$ref": f"#/channels/{channel}"}
    operation: dict[str, Any] = {"action": action, "channel": at, "messages": refs(messages)}
    if replies:
        operation["reply"] = {"channel": at, "messages": refs(replies)}
    return operation
