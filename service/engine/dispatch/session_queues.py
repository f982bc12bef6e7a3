"""Session queues: the requests of one session, one at a time, in the order in which they came.

Rule 1: the task at the head of a queue is the only one in flight; it ends exactly once.
Rule 2: a queue's cached record is a guess, and of an open session. It is dropped whenever a write
        was refused or its outcome is not known, and with the queue when the cache is full.
Rule 3: a queue with waiting tasks is never dropped. Of the idle ones, those leave first that were
        not used for a whole round: a step only marks its queue, nothing is moved.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from service.engine.inference.worker import Worker
from service.engine.models.loaded_model import LoadedModel
from service.engine.session.rules import Reply
from service.errors import CarryError, QueueFullError
from service.stores.record.record import Key, Record
from service.wordings import case

_MAX_WAITING_TURNS = 1024
_LOOKS = 64
_LOOKED_AT_ONCE = 5_000


class Head(Protocol):
    """What may be in flight for a session: a request of its own, or a batch with a row of it."""

    @property
    def futures(self) -> "Iterable[asyncio.Future[Any]]":
        """Of the clients that wait for it."""

    @property
    def deadline(self) -> float:
        """Until when they wait, on the clock of `time.monotonic`."""

    def end(self, outcome: Reply | CarryError) -> None:
        """Answer them, once."""


class Queued(Head, Protocol):
    """A request that waits for those of its session before it."""

    @property
    def queue(self) -> "SessionQueue": ...


class SessionQueue:
    """A session's task in flight, those behind it, and its record and step as last seen.

    `worker` is that of its model; it is set when the record was found to fit it. `is_plain` says
    that steps of it can be committed by the batch: rows, of which one reply is kept.
    """

    __slots__ = ("head", "is_plain", "is_used", "key", "record", "step", "waiting", "worker")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.record: Record | None = None
        self.step = 0
        self.worker: Worker | None = None
        self.is_plain = False
        self.head: Head | None = None
        self.waiting: deque[Queued] | None = None
        self.is_used = False

    def fits(self, worker: Worker) -> None:
        """The worker is that of the record's model."""
        if self.record is not None:
            header = self.record.header
            self.worker = worker
            self.is_plain = (
                worker.model.codec is None and header.ring_size == 1 and header.keeps is None
            )


class SessionQueues:
    """All queues of a process: about `max_cached` idle ones keep their record."""

    def __init__(self, max_cached: int) -> None:
        self._max_cached = max_cached
        self._queues: OrderedDict[Key, SessionQueue] = OrderedDict()
        self._began: list[SessionQueue] = []
        self._num_busy = 0
        self.state_bytes = 0
        self.watchers: dict[Key, list[Callable[[Record], None]]] = {}

    def __len__(self) -> int:
        return len(self._queues)

    def cached_queue(self, key: Key) -> SessionQueue | None:
        """The queue of a session that was seen here; its worker is set where its model is known."""
        return self._queues.get(key)

    def cached(self, key: Key) -> Record | None:
        """The record as last seen: a guess."""
        queue = self._queues.get(key)
        return queue.record if queue else None

    def cached_model(self, key: Key) -> LoadedModel | None:
        """The model of the session as last seen: a guess as well."""
        queue = self._queues.get(key)
        return queue.worker.model if queue and queue.worker else None

    def queue_of(self, key: Key) -> SessionQueue:
        """The queue of a session, until its last task is over."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = SessionQueue(key)
        return queue

    def join(self, task: Queued) -> bool:
        """Put a task behind the others of its queue; True if it is the head.

        Raises:
            QueueFullError: too many requests of this session wait already.
        """
        queue = task.queue
        if queue.head is None:
            self.begin(queue, task)
            return True
        if queue.waiting is None:
            queue.waiting = deque()
        if len(queue.waiting) >= _MAX_WAITING_TURNS - 1:
            raise QueueFullError(
                case("session-queue-full", session=queue.key.name, num_waiting=_MAX_WAITING_TURNS),
                retry_after_s=1,
            )
        queue.waiting.append(task)
        return False

    def begin(self, queue: SessionQueue, head: Head) -> None:
        """Head an idle queue."""
        queue.head = head
        queue.is_used = queue.record is not None
        self._num_busy += 1
        self._began.append(queue)

    def next(self, queue: SessionQueue) -> Queued | None:
        """The head of the queue is over: the next task, if there is one."""
        if queue.waiting:
            queue.head = following = queue.waiting.popleft()
            return following
        queue.head = None
        self._num_busy -= 1
        if queue.record is None:
            self._drop(queue)
        elif len(self._queues) - self._num_busy > self._max_cached:
            self._drop(self._least_used(queue))
        return None

    def remember(self, queue: SessionQueue, record: Record | None) -> None:
        """Set what the queue believes the store holds."""
        if queue.record is not None:
            self.state_bytes -= len(queue.record.data)
        queue.worker = None
        queue.is_plain = False
        if record is not None and self.watchers:
            self._show(queue.key, record)
        if record is None or record.closed:
            queue.record = None
            return
        self.state_bytes += len(record.data)
        queue.record = record
        queue.step = record.step

    def stepped(self, queue: SessionQueue, record: Record, step: int) -> None:
        """As `remember`, after a step of the session that it holds."""
        if queue.record is not None:
            self.state_bytes += len(record.data) - len(queue.record.data)
            queue.record = record
            queue.step = step
        if self.watchers:
            self._show(queue.key, record)

    def forget(self, key: Key) -> None:
        """Keep nothing of a session that is gone, unless somebody asks for it just now."""
        queue = self._queues.get(key)
        if queue is not None and queue.head is None:
            self._drop(queue)

    async def forget_worker(self, worker: Worker) -> None:
        """Let every queue find its worker anew; others go on between a few thousand of them."""
        for number, queue in enumerate(list(self._queues.values()), start=1):
            if queue.worker is worker:
                queue.worker = None
                queue.is_plain = False
            if number % _LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def tasks(self) -> list[Head]:
        """Every task that has not ended. Called now and then: it forgets which queues came to rest.

        What began since the last call is noted by its queue alone, so that a task that has ended
        keeps nothing alive.
        """
        tasks: list[Head] = []
        self._began = [queue for queue in dict.fromkeys(self._began) if queue.head is not None]
        for queue in self._began:
            if queue.head is not None:
                tasks += [queue.head, *(queue.waiting or ())]
        return tasks

    def _show(self, key: Key, record: Record) -> None:
        for watcher in self.watchers.get(key, ()):
            watcher(record)

    def _least_used(self, found: SessionQueue) -> SessionQueue:
        """Of a few of the oldest queues, one that nobody used for a round; else any idle one."""
        for _ in range(_LOOKS):
            queue = next(iter(self._queues.values()))
            self._queues.move_to_end(queue.key)
            if queue.head is None:
                if not queue.is_used:
                    return queue
                queue.is_used = False
                found = queue
        return found

    def _drop(self, queue: SessionQueue) -> None:
        self.remember(queue, None)
        del self._queues[queue.key]
