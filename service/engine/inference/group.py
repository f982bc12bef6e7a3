"""What a worker asks of rows that were put together by somebody else and are one batch."""

from collections.abc import Collection
from typing import Protocol

from service.engine.graph.runner import Batch, BatchResult
from service.engine.inference.admission import Admission
from service.engine.timing import RequestTiming
from service.errors import CarryError


class Group(Protocol):
    @property
    def num_rows(self) -> int: ...

    @property
    def num_pieces(self) -> int:
        """Of how many requests the rows are."""

    @property
    def admission(self) -> Admission | None:
        """Of the request that it is a part of, if it is."""

    @property
    def timings(self) -> Collection[RequestTiming]:
        """Of its requests, those that have one."""

    @property
    def is_full(self) -> bool:
        """Whether it may be the second batch in the thread."""

    def drop_unwanted(self, now: float) -> int:
        """Drop rows that nobody waits for, or whose time is up; how many."""

    def stage(self) -> Batch: ...

    def refuse(self, places: list[int], error: CarryError) -> None:
        """Some of the rows were not applied; the others are through, with `ran`."""

    def ran(self, result: BatchResult) -> None: ...

    def fail(self, error: CarryError) -> None: ...
