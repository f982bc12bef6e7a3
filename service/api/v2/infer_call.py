"""One infer request of `/v2`, from its body to the answer: what both of its ways share."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar

from fastapi import Response

from service.api import limits
from service.api.auth.keys import Caller
from service.api.compression import deflate
from service.api.context import Context
from service.api.operation import OnOutcome
from service.api.v2.body import (
    HEADER,
    InferRequest,
    ParsedBody,
    infer_request,
    parse,
    read_id,
    read_infer,
    read_parameters,
    write_infer,
)
from service.api.v2.errors import Asked, error_response
from service.api.v2.receive import Body, expected_model, read
from service.api.v2.sequences import (
    Sequence,
    model_of_sequence,
    only_row,
    reply_of_sequence,
    request_of_sequence,
    run_sequence,
)
from service.api.v2.signature import Signature, observations_of, outputs_of
from service.engine.models.loaded_model import LoadedModel
from service.engine.session.requests import Observations, StartRequest, StepRequest
from service.engine.session.rules import Reply
from service.engine.timing import RequestTiming
from service.errors import (
    CarryError,
    InvalidInputError,
    TooLargeError,
)
from service.stores.record.record import PackedOutputs

_Outcome = TypeVar("_Outcome")

_ROUTE = "/v2/models/{model}/infer"
_ROUTE_WITH_VERSION = "/v2/models/{model}/versions/{version}/infer"


class InferCall:
    """One infer request; with its body, an `Operation` of the fast path."""

    __slots__ = (
        "_accepted",
        "_asked_at",
        "_context",
        "_model",
        "_name",
        "_parsed",
        "_started_ns",
        "_version",
        "asked",
        "body",
        "caller",
    )

    def __init__(
        self,
        context: Context,
        caller: Caller,
        name: str,
        version: str | None,
        accepted: str,
        asked: Asked,
    ) -> None:
        """`accepted`: the request's Accept-Encoding."""
        self._started_ns, self._asked_at = time.perf_counter_ns(), time.time()
        self._context = context
        self.caller = caller
        self._name = name
        self._version = version
        self._accepted = accepted
        self.asked = asked
        self.body = Body(b"", None)
        self._parsed: ParsedBody | None = None
        self._model: LoadedModel | None = None

    @classmethod
    def plain(
        cls,
        context: Context,
        caller: Caller,
        name: str,
        version: str | None,
        json_bytes: int | None,
        accepted: str,
        data: bytes,
    ) -> "InferCall":
        """A request whose body is `data`, not encoded."""
        call = cls(context, caller, name, version, accepted, Asked())
        call.body = Body(data, json_bytes)
        return call

    @property
    def route(self) -> str:
        return _ROUTE if self._version is None else _ROUTE_WITH_VERSION

    @property
    def path(self) -> str:
        version = "" if self._version is None else f"/versions/{self._version}"
        return f"/v2/models/{self._name}{version}/infer"

    def submit(
        self, timing: RequestTiming | None, on_outcome: OnOutcome
    ) -> "asyncio.Future[Any] | None":
        """Of a sequence whose model is known, if its caller has no quota, and of a row without one;
        others by `respond`.
        """
        if self.body.is_big:
            return None
        try:
            self.require_room()
            return self._submit(timing, on_outcome)
        except Exception:
            self._fail()
            raise

    def _submit(
        self, timing: RequestTiming | None, on_outcome: OnOutcome
    ) -> "asyncio.Future[Any] | None":
        engine = self._context.engine
        try:
            self._parsed = parse(*self.body)
            sequence = Sequence.of(self._parsed.parameters)
            if sequence is None:
                return self._submit_row(self._parsed, timing, on_outcome)
            if sequence.start and self.caller.quota is not None:
                return None
            key = sequence.key(self.caller.tenant, self._name)
            queue = engine.cached_queue(key)
            if sequence.start:
                model = engine.registry.get(self._name, self._version)
            elif queue is not None and queue.worker is not None:
                model = queue.worker.model
            else:
                return None
            if self._version not in (None, model.version):
                return None
            request = infer_request(Signature.of(model), self._parsed)
            rows, emit = self._observed(model, request)
            step = self._step_of(sequence, model, rows, emit)
        except CarryError:  # `respond` finds all that is wrong
            return None
        self._model = model
        self.asked.sequence = sequence.described(self._name)
        answer = partial(self._answer, request, sequence, time.perf_counter_ns())
        on_end = partial(self._on_end, request, answer, on_outcome)
        return engine.submit(key, step, timing, on_end, queue)

    def _submit_row(
        self, parsed: ParsedBody, timing: RequestTiming | None, on_outcome: OnOutcome
    ) -> "asyncio.Future[Any] | None":
        """As `submit`, of a request without a sequence; several rows, and texts, by `respond`."""
        engine = self._context.engine
        model = self._model = engine.registry.get(self._name, self._version)
        request = infer_request(Signature.of(model), parsed)
        rows, emit = self._observed(model, request)
        if len(rows) != 1 or model.codec is not None:
            return None
        answer = partial(self._answer_row, request, model, time.perf_counter_ns())
        on_end = partial(self._on_end, request, answer, on_outcome)
        return engine.predict_row(model, rows[0], emit, timing, on_end)

    def _on_end(
        self,
        request: InferRequest,
        answer: Callable[[_Outcome], Response],
        on_outcome: OnOutcome,
        outcome: _Outcome,
    ) -> None:
        response: Response | Exception
        try:
            response = answer(outcome)
        except Exception as error:  # the request's boundary
            self.count_failure()
            self.asked.id = request.id
            response = error
        on_outcome(response)

    async def respond(self) -> Response:
        try:
            self.require_room()
            return await self.run()
        except Exception:
            self._fail()
            raise

    def _fail(self) -> None:
        self.count_failure()
        self.asked.id = read_id(*self.body)

    def problem(self, error: Exception) -> Response:
        return error_response(error, self.path, self.asked)

    def require_room(self) -> None:
        """Raise CarryError unless the model is loaded and has room for work: before the body."""
        self._model = expected_model(self._context.engine.registry, self._name, self._version)
        self._context.engine.refuse_if_full(self._model)

    def count_failure(self) -> None:
        if self._model is not None:
            spent_ns = time.perf_counter_ns() - self._started_ns
            self._context.metrics.inference.failed(self._model.name, self._model.version, spent_ns)

    async def run(self) -> Response:
        """Read the body, run its rows, and encode their outputs.

        Raises:
            CarryError: the body does not fit, or it could not be run.
        """
        context = self._context
        if self.body.is_big:
            parameters = await read(context, self.body, read_parameters)
        else:
            self._parsed = self._parsed or parse(*self.body)
            parameters = self._parsed.parameters
        sequence = Sequence.of(parameters)
        if sequence is not None:
            self.asked.sequence = sequence.described(self._name)
        model, request = await self._read_as_meant(sequence)
        self._model = model
        was_read_ns = time.perf_counter_ns()
        rows, emit = self._observed(model, request)
        if sequence is None:
            packed = await context.engine.predict(model, rows, emit)
            return self._respond(request, packed, model, {}, was_read_ns)
        step = self._step_of(sequence, model, rows, emit)
        key = sequence.key(self.caller.tenant, model.name)
        opening = partial(context.quotas.open, self.caller)
        reply = await run_sequence(context.engine, key, sequence, model.name, step, opening)
        return self._answer(request, sequence, was_read_ns, reply)

    async def _read_as_meant(self, sequence: Sequence | None) -> tuple[LoadedModel, InferRequest]:
        """The model that the request is for, and the request as that reads it."""
        engine, name, version = self._context.engine, self._name, self._version
        if sequence is None or sequence.start:
            return await self._read_as(engine.registry.get(name, version))
        key = sequence.key(self.caller.tenant, name)
        try:
            model = await model_of_sequence(engine, name, version, key, sequence)
            return await self._read_as(model)
        except CarryError:
            if engine.cached_model(key) is None:
                raise
            # What is cached may be of an earlier sequence of this id.
            model = await model_of_sequence(engine, name, version, key, sequence, is_fresh=True)
            return await self._read_as(model)

    async def _read_as(self, model: LoadedModel) -> tuple[LoadedModel, InferRequest]:
        signature = Signature.of(model)
        if self._parsed is not None:
            return model, infer_request(signature, self._parsed)
        return model, await read(self._context, self.body, partial(read_infer, signature))

    def _observed(
        self, model: LoadedModel, request: InferRequest
    ) -> tuple[list[tuple[Observations, int | None]], Literal["last", "all"]]:
        """What each row observes and the time of its first step, and which steps are answered."""
        rows = observations_of(model, request.arrays)
        emit = _emit(model, request.parameters)
        _bound(model, rows, emit)
        return rows, emit

    def _step_of(
        self,
        sequence: Sequence,
        model: LoadedModel,
        rows: list[tuple[Observations, int | None]],
        emit: Literal["last", "all"],
    ) -> StepRequest | StartRequest:
        settings = self._context.settings
        return request_of_sequence(
            sequence,
            model,
            self._version,
            *only_row(rows),
            emit,
            settings.default_ttl_s,
            restarts=settings.v2_start == "restart",
            asked_at=self._asked_at,
        )

    def _answer_row(
        self,
        request: InferRequest,
        model: LoadedModel,
        was_read_ns: int,
        outcome: PackedOutputs | CarryError,
    ) -> Response:
        if isinstance(outcome, CarryError):
            raise outcome
        return self._respond(request, [outcome], model, {}, was_read_ns)

    def _answer(
        self,
        request: InferRequest,
        sequence: Sequence,
        was_read_ns: int,
        outcome: Reply | CarryError,
    ) -> Response:
        reply = reply_of_sequence(outcome, sequence, self._name)
        model = reply.model or self._context.engine.registry.get_for_reply(reply.record.header)
        return self._respond(
            request, [reply.outputs], model, sequence.told(reply.step), was_read_ns
        )

    def _respond(
        self,
        request: InferRequest,
        packed: list[bytes],
        model: LoadedModel,
        told: dict[str, Any],
        was_read_ns: int,
    ) -> Response:
        """`packed` are the outputs of each row, `told` is what is said of the sequence."""
        self._model = model
        was_run_ns = time.perf_counter_ns()
        head: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
        if request.id is not None:
            head["id"] = request.id
        if told:
            head["parameters"] = told
        arrays = outputs_of(model, packed)
        body, json_bytes = write_infer(head, Signature.of(model), arrays, request)
        headers = {"Vary": "Accept-Encoding"}  # also where it is too short to be worth it
        if json_bytes is not None:
            headers[HEADER] = str(json_bytes)
        body, encoding = deflate(body, self._accepted)
        if encoding:
            headers["Content-Encoding"] = encoding
        kind = "application/json" if json_bytes is None else "application/octet-stream"
        response = Response(body, 200, headers, kind)
        ended_ns = time.perf_counter_ns()
        self._context.metrics.inference.succeeded(
            model.name,
            model.version,
            len(packed),
            was_read_ns - self._started_ns,
            was_run_ns - was_read_ns,
            ended_ns - was_run_ns,
        )
        return response


def _emit(model: LoadedModel, parameters: dict[str, Any]) -> Literal["last", "all"]:
    """A graph of tensors answers every step, as it does elsewhere; ours the last, unless asked."""
    default = "all" if model.observations is not None else "last"
    emit = parameters.get("emit", default)
    if emit == "all" and model.codec is None:
        return "all"
    if emit not in ("last", "all"):
        raise InvalidInputError(f'emit is {str(emit)[:20]!r}: expected "last" or "all"')
    return "last"


def _bound(
    model: LoadedModel, rows: list[tuple[Observations, int | None]], emit: Literal["last", "all"]
) -> None:
    num_steps = sum(each.num_observed for each, _ in rows)
    if len(rows) > limits.MAX_INSTANCES or num_steps > limits.MAX_ROWS:
        raise TooLargeError(
            f"{len(rows)} rows of {num_steps} steps in all: expected at most"
            f" {limits.MAX_INSTANCES} and {limits.MAX_ROWS}; send them in parts"
        )
    num_answers = num_steps if emit == "all" else len(rows)
    num_bytes = num_answers * model.runner.outputs.step_bytes
    if num_bytes > limits.MAX_REPLY_BYTES:
        raise TooLargeError(
            f"the answer would have {num_bytes} bytes of outputs: expected at most"
            f" {limits.MAX_REPLY_BYTES}; send fewer steps"
        )
    for each, _ in rows:
        if each.text is not None and len(each.text) > limits.MAX_TEXT_CHARS:
            raise TooLargeError(f"a text is longer than {limits.MAX_TEXT_CHARS} characters")
