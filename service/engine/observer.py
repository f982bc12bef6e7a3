"""What the engine reports to its observer: telemetry implements `Observer`, the engine calls it.

Every call is made on the event loop, must return at once, and must not raise.
"""

from typing import Protocol


class Observer(Protocol):
    def batch_ran(self, model: str, version: str, num_rows: int, ort_s: float) -> None:
        """One call of the graph: its rows, and the time inside ONNX Runtime."""

    def rows_refused(self, model: str, version: str, num_rows: int) -> None:
        """Rows of a call whose outputs or new states were not finite."""

    def queue_changed(self, model: str, version: str, num_waiting: int) -> None:
        """Pieces of work that wait for the graph or are in it."""

    def session_created(self, model: str, version: str) -> None: ...

    def session_ended(self, model: str, version: str, reason: str) -> None:
        """`reason` is deleted, final or expired; an expiry is reported at least once."""

    def session_operated(self, model: str, version: str, operation: str) -> None:
        """`operation` is fork, rewind, restore or upgrade; it is committed."""

    def steps_committed(self, model: str, version: str, count: int) -> None: ...

    def predicted(self, model: str, version: str, num_instances: int) -> None: ...

    def group_committed(self, num_rows: int, commit_s: float) -> None: ...

    def request_refused(self, code: str) -> None:
        """A request of a session ended with an error of this code."""

    def commit_conflicted(self) -> None: ...

    def store_failed(self) -> None: ...

    def cache_changed(self, num_sessions: int, state_bytes: int) -> None: ...

    def models_changed(self, loaded: set[tuple[str, str, str]], num_refused: int) -> None:
        """All models that are loaded now (name, version, provider), unloading ones too."""


class NullObserver:
    """Watches nothing."""

    def batch_ran(self, model: str, version: str, num_rows: int, ort_s: float) -> None:
        return None

    def rows_refused(self, model: str, version: str, num_rows: int) -> None:
        return None

    def queue_changed(self, model: str, version: str, num_waiting: int) -> None:
        return None

    def session_created(self, model: str, version: str) -> None:
        return None

    def session_ended(self, model: str, version: str, reason: str) -> None:
        return None

    def session_operated(self, model: str, version: str, operation: str) -> None:
        return None

    def steps_committed(self, model: str, version: str, count: int) -> None:
        return None

    def predicted(self, model: str, version: str, num_instances: int) -> None:
        return None

    def group_committed(self, num_rows: int, commit_s: float) -> None:
        return None

    def request_refused(self, code: str) -> None:
        return None

    def commit_conflicted(self) -> None:
        return None

    def store_failed(self) -> None:
        return None

    def cache_changed(self, num_sessions: int, state_bytes: int) -> None:
        return None

    def models_changed(self, loaded: set[tuple[str, str, str]], num_refused: int) -> None:
        return None
