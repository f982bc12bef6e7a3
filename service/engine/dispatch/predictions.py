"""Predictions: jobs without a session, each from a fresh state. Nothing of them is kept."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

from service.contract.text import UNREAD
from service.engine.inference.job import Job
from service.engine.inference.worker_pool import Workers
from service.engine.models.loaded_model import LoadedModel
from service.engine.observer import Observer
from service.engine.session.inputs import feed
from service.engine.session.requests import Observations
from service.engine.timing import CURRENT, RequestTiming
from service.errors import CarryError, InvalidInputError, NotFiniteError
from service.stores.record.record import PackedOutputs
from service.wordings import case

OnPrediction = Callable[[PackedOutputs | CarryError], None]
"""Takes the outputs of a prediction, or why it has none."""

_READ_AT_ONCE = 10_000
"""Characters; other requests run between chunks, since reading one takes some 20 ms."""


class Predictions:
    """`under_way` holds a future for each job that was submitted, until it is done."""

    def __init__(self, workers: Workers, observer: Observer, request_timeout_s: float) -> None:
        self.under_way: set[asyncio.Future[PackedOutputs]] = set()
        self._workers = workers
        self._observer = observer
        self._request_timeout_s = request_timeout_s

    async def predict(
        self,
        model: LoadedModel,
        instances: list[tuple[Observations, int | None]],
        emit: Literal["last", "all"] | None,
    ) -> list[PackedOutputs]:
        """As `Engine.predict`."""
        jobs: list[Job] = []
        num_read, timing = 0, CURRENT.get()
        for index, (observations, start_s) in enumerate(instances):
            jobs.append(self._job(model, index, observations, start_s, emit, timing))
            num_read += len(observations.text or "")
            if num_read >= _READ_AT_ONCE:
                num_read = 0
                await asyncio.sleep(0)
                self._workers.of(model).refuse_if_full()
        self._workers.of(model).submit_all(jobs)
        futures: list[asyncio.Future[PackedOutputs]] = [job.future for job in jobs]
        try:
            for future in futures:
                self.under_way.add(future)
                future.add_done_callback(self.under_way.discard)
            outputs = await asyncio.gather(*futures)
        except NotFiniteError as error:
            index = next(i for i, each in enumerate(futures) if _failed_with(each, error))
            raise _not_finite(index, error) from None
        finally:
            for future in futures:
                future.cancel()  # those behind a failed one; their jobs are dropped
        self._observer.predicted(model.name, model.version, len(instances))
        return outputs

    def submit(
        self,
        model: LoadedModel,
        observations: Observations,
        start_s: int | None,
        emit: Literal["last", "all"],
        timing: RequestTiming | None,
        on_end: OnPrediction,
    ) -> "asyncio.Future[PackedOutputs]":
        """As `Engine.predict_row`. The future can be cancelled; then `on_end` receives nothing.

        Raises:
            CarryError: it was refused; `on_end` receives nothing.
        """
        job = self._job(model, 0, observations, start_s, emit, timing)
        self._workers.of(model).submit_all([job])
        future: asyncio.Future[PackedOutputs] = job.future
        self.under_way.add(future)
        future.add_done_callback(partial(self._end, model, on_end))
        return future

    def _end(
        self, model: LoadedModel, on_end: OnPrediction, future: "asyncio.Future[PackedOutputs]"
    ) -> None:
        self.under_way.discard(future)
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._observer.predicted(model.name, model.version, 1)
            on_end(future.result())
            return
        assert isinstance(error, CarryError), "jobs fail with nothing else"
        on_end(_not_finite(0, error) if isinstance(error, NotFiniteError) else error)

    def _job(
        self,
        model: LoadedModel,
        index: int,
        observations: Observations,
        start_s: int | None,
        emit: Literal["last", "all"] | None,
        timing: RequestTiming | None,
    ) -> Job:
        future = asyncio.get_running_loop().create_future()
        job = Job(future, time.monotonic() + self._request_timeout_s, timing)
        initial = model.layout.initial_row
        try:
            default: Literal["last", "all"] = "last" if model.manifest.tag is None else "all"
            feed(job, model, start_s, 0, UNREAD, initial, observations, emit or default)
        except InvalidInputError as error:
            raise InvalidInputError(case("instance-refused", index=index, why=error)) from None
        return job


def _not_finite(index: int, error: NotFiniteError) -> NotFiniteError:
    return NotFiniteError(case("instance-refused", index=index, why=error))


def _failed_with(future: "asyncio.Future[PackedOutputs]", error: Exception) -> bool:
    return future.done() and not future.cancelled() and future.exception() is error
