"""How `/v2` looks in `/openapi.json`: bodies, answers, errors and examples of its operations.

Its routes read their bodies themselves, since tensors may be binary; this only describes them.
"""

from typing import Any, Final, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from service.api.v2.errors import is_open_inference

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "BF16", "FP32", "FP64", "BYTES",
]  # fmt: skip


class InferInput(BaseModel):
    """A tensor: its `data`, or `parameters.binary_data_size` bytes behind the JSON."""

    name: str
    shape: list[int]
    datatype: Datatype
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = Field(default=None, description="In row-major order, flat or nested.")


class InferOutput(BaseModel):
    name: str
    parameters: dict[str, Any] | None = Field(default=None, description="`binary_data`: true")


class InferBody(BaseModel):
    """`parameters` may hold `sequence_id`, `sequence_start`, `sequence_end`, `sequence_step` (ours:
    the count so far, exactly once), `emit` (ours: `last` or `all`) and `binary_data_output`."""

    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[InferInput]
    outputs: list[InferOutput] | None = None


class InferredTensor(BaseModel):
    name: str
    shape: list[int]
    datatype: Datatype
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferAnswer(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[InferredTensor]


class GenerateAsk(BaseModel):
    """Parameters may also stand beside `parameters`. A model that writes about vectors takes one
    by the name of its input. `sequence_id` and its like are those of `infer`."""

    id: str | None = None
    text_input: str = ""
    parameters: dict[str, Any] | None = Field(
        default=None, description="`max_tokens`, `temperature`, `seed`, `sequence_id`, …"
    )


class GenerateReply(BaseModel):
    """Of a stream each event holds one, with the next piece of `text_output`."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any] | None = None
    text_output: str


class InferError(BaseModel):
    """What every refusal under `/v2` is; with the `id` of the request, where one was read."""

    error: str
    id: str | None = None


_SCHEMAS: Final = "#/components/schemas/"
_JSON, _BYTES = "application/json", "application/octet-stream"
_STATUSES: Final = {
    "400": "Refused: a body that does not fit the model or the protocol",
    "401": "No key, or one that is unknown, revoked or expired",
    "403": "The key does not allow it",
    "404": "No such model",
    "409": "The sequence is at another step, or goes on (CARRY_V2_START)",
    "413": "More than this server takes",
    "415": "An encoding of the body that is not known",
    "429": "Queue full; Retry-After says when to try again",
    "500": "The model failed on this input",
    "503": "Store away, deadline passed, not ready or shutting down",
}
_EXAMPLES: Final = {
    "forecast": {
        "summary": "Two days of one series, in a sequence",
        "value": {
            "parameters": {"sequence_id": 42, "sequence_start": True},
            "inputs": [
                {
                    "name": "x",
                    "shape": [1, 2, 4],
                    "datatype": "FP32",
                    "data": [19.9, 79.0, 0.0, 0.0, 20.4, 81.0, 0.2, 0.0],
                },
                {
                    "name": "time",
                    "shape": [1, 2],
                    "datatype": "INT64",
                    "data": [1_471_824_000, 1_471_910_400],
                },
            ],
            "outputs": [{"name": "mean"}],
        },
    },
}
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}


def describe_open_inference(document: dict[str, Any]) -> None:
    """Say in an OpenAPI document what the operations under `/v2` take, answer and refuse."""
    models: list[type[BaseModel]] = [
        InferBody, InferAnswer, InferError, GenerateAsk, GenerateReply,
    ]  # fmt: skip
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_SCHEMAS + "{model}"
    )
    document["components"]["schemas"] |= definitions["$defs"]
    refused = {_JSON: {"schema": {"$ref": f"{_SCHEMAS}InferError"}}}
    for path, operations in document["paths"].items():
        if not is_open_inference(path):
            continue
        for operation in operations.values():
            answers = operation["responses"]
            answers.pop("422", None)  # the protocol knows none
            for status, why in _STATUSES.items():
                if status in ("401", "403") and status not in answers:
                    continue  # open to everybody
                answers[status] = {"description": why, "content": refused}
            if path.endswith("/infer"):
                _describe_infer(operation)
            elif path.endswith(("/generate", "/generate_stream")):
                _describe_generate(operation, is_stream=path.endswith("_stream"))


_GENERATE_EVENTS = (
    'data: {"model_name":"hello","model_version":"1","text_output":"l"}\n\n'
    'data: {"model_name":"hello","model_version":"1","text_output":"o"}\n\n'
)


def _describe_infer(operation: dict[str, Any]) -> None:
    body = {"schema": {"$ref": f"{_SCHEMAS}InferBody"}, "examples": _EXAMPLES}
    operation["requestBody"] = {"required": True, "content": {_JSON: body, _BYTES: _BINARY}}
    operation["responses"]["200"]["content"] = {
        _JSON: {"schema": {"$ref": f"{_SCHEMAS}InferAnswer"}},
        _BYTES: _BINARY,
    }


def _describe_generate(operation: dict[str, Any], *, is_stream: bool) -> None:
    value = {"text_input": "he", "parameters": {"max_tokens": 20, "temperature": 0.7, "seed": 7}}
    example = {"generate": {"summary": "Write on for 20 characters", "value": value}}
    body = {"schema": {"$ref": f"{_SCHEMAS}GenerateAsk"}, "examples": example}
    operation["requestBody"] = {"required": True, "content": {_JSON: body}}
    answer = {_JSON: {"schema": {"$ref": f"{_SCHEMAS}GenerateReply"}}}
    stream = {"text/event-stream": {"example": _GENERATE_EVENTS}}
    operation["responses"]["200"] = {
        "description": "Each event holds the next piece of text" if is_stream else "The text",
        "content": stream if is_stream else answer,
    }
