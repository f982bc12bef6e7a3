"""Which worker runs which model, from when a model is served until nothing is left of it.

Rule 1: a model is *served*; then *retiring*: sessions of it may be stepped, nothing else begins,
        and it may be served again; then *leaving*: nothing begins, what has begun is answered;
        then gone: its thread has ended and its graph is freed, even if the model is referenced.
Rule 2: work is given on the event loop to a worker that was found here, or in a queue. Before the
        last of it is waited for, no queue holds a leaving worker any more.

The engine owns it, from `start` to `close`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import structlog

from service.engine.daemon_thread import in_daemon
from service.engine.inference.worker import Worker
from service.engine.models.loaded_model import LoadedModel
from service.engine.models.registry import Registry
from service.engine.observer import Observer
from service.errors import ModelNotFoundError
from service.wordings import case

log = structlog.get_logger()


class Workers:
    """A worker for each model that is loaded."""

    def __init__(
        self,
        registry: Registry,
        observer: Observer,
        new_worker: Callable[[LoadedModel], Worker],
        forget_worker: Callable[[Worker], Awaitable[None]],
        answered: Callable[[], Awaitable[None]],
    ) -> None:
        """`forget_worker` lets nobody give it work any more; `answered` returns when all is that is
        under way, or never will be."""
        self.left_running = False
        """Whether a graph still ran when all was closed: its thread cannot be ended."""
        self._registry = registry
        self._observer = observer
        self._new_worker = new_worker
        self._forget_worker = forget_worker
        self._answered = answered
        self._workers: dict[LoadedModel, Worker] = {}
        self._grace_ends: dict[LoadedModel, asyncio.TimerHandle] = {}
        self._leaving: dict[asyncio.Task[None], Worker] = {}

    def start(self) -> None:
        """Begin to serve every model of the registry, on the loop that runs now."""
        for model in self._registry.all():
            self._start(model)
        self.tell()

    async def close(self) -> None:
        """Let go of every thread. Whatever waits must have been ended before."""
        self.left_running = any(worker.is_running for worker in self)
        for handle in self._grace_ends.values():
            handle.cancel()
        leaving = list(self._leaving)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        while self._workers:
            _, worker = self._workers.popitem()
            worker.close(waits=not worker.is_running)  # a graph that hangs is left behind

    def __iter__(self) -> Iterator[Worker]:
        """Those that have work or may get some."""
        yield from self._workers.values()
        yield from self._leaving.values()

    def of(self, model: LoadedModel) -> Worker:
        """The worker of a model.

        Raises:
            ModelNotFoundError: the model is leaving, or gone.
        """
        worker = self.find(model)
        if worker is None:
            raise _unloaded(model)
        return worker

    def find(self, model: LoadedModel) -> Worker | None:
        """As `of`; None if the model is leaving, or gone."""
        return self._workers.get(model)

    def serve(self, model: LoadedModel, grace_s: float) -> None:
        """Serve a model, new or retiring, in the place of what has its name and version."""
        replaced = self._registry.add(model)
        handle = self._grace_ends.pop(model, None)
        if handle is None:
            self._start(model)
        else:
            handle.cancel()
        if replaced is not None:
            self.retire(replaced, grace_s)
        self.tell()

    def retire(self, model: LoadedModel, grace_s: float) -> None:
        """Let nothing but steps begin with a model; after `grace_s` let go of it."""
        self._registry.retire(model)
        loop = asyncio.get_running_loop()
        self._grace_ends[model] = loop.call_later(grace_s, self._end_grace, model)
        log.info("model unloading", model=model.name, version=model.version, grace_s=grace_s)

    def seconds_left(self, model: LoadedModel) -> float:
        """Of the grace of a retiring model."""
        return max(0.0, self._grace_ends[model].when() - asyncio.get_running_loop().time())

    def tell(self) -> None:
        """Say which models are loaded, and how many bundles were refused."""
        models = [*self._registry.all(), *self._registry.retiring, *self._registry.leaving]
        loaded = {(model.name, model.version, model.runner.provider) for model in models}
        self._observer.models_changed(loaded, len(self._registry.refused))

    def _start(self, model: LoadedModel) -> None:
        worker = self._workers[model] = self._new_worker(model)
        worker.start()

    def _end_grace(self, model: LoadedModel) -> None:
        del self._grace_ends[model]
        self._registry.leave(model)
        worker = self._workers.pop(model)
        task = asyncio.create_task(self._leave(model, worker))
        self._leaving[task] = worker
        task.add_done_callback(self._leaving.pop)

    async def _leave(self, model: LoadedModel, worker: Worker) -> None:
        try:
            await self._forget_worker(worker)
            await self._answered()
        finally:
            worker.refuse_all(_unloaded(model))
            if worker.is_running:  # a graph that hangs must not hold up the loop, nor the end
                await in_daemon(f"{model.name}-{model.version}-end", worker.close)
            else:
                worker.close()
            self._registry.forget(model)
            model.runner.close()
            self.tell()
            log.info("model unloaded", model=model.name, version=model.version)


def _unloaded(model: LoadedModel) -> ModelNotFoundError:
    return ModelNotFoundError(case("model-unloaded", model=model.name, version=model.version))
