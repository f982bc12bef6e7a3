"""The length of the write-ahead log after each commit, and when a checkpoint is due.

Rule 1: the length of the log counts, not that of the records: a commit of one small record writes
        whole pages, also of indexes.
Rule 2: a checkpoint is due at `CHECKPOINT_BYTES`. If a reader of the log keeps it from finishing,
        it is retried after `RETRY_BYTES` more, and after twice as many each time, up to
        `CHECKPOINT_BYTES`.
Rule 3: during a checkpoint, commits wait if the log is longer than `FULL_BYTES`. So the log is
        bounded by that and the groups in flight, except during a long read such as a backup.
"""

from typing import Final

CHECKPOINT_BYTES: Final = 16 * 2**20
RETRY_BYTES: Final = 2 * 2**20
FULL_BYTES: Final = 40 * 2**20
TRUNCATED_BYTES: Final = 32 * 2**20
"""SQLite truncates a longer file to this size when the log restarts."""

# https://sqlite.org/walformat.html
HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24


class LogSize:
    """Counts frames, of one page each. The thread that commits calls `grew_to`."""

    def __init__(self, frame_bytes: int, num_frames: int) -> None:
        self.num_frames = num_frames
        """After the last commit of this process; others may have added frames since."""
        self._usual = _frames_of(CHECKPOINT_BYTES, frame_bytes)
        self._full = _frames_of(FULL_BYTES, frame_bytes)
        self._first_gap = self._gap = _frames_of(RETRY_BYTES, frame_bytes)
        self._due_at = self._usual

    @property
    def is_due(self) -> bool:
        """Whether a checkpoint should start."""
        return self.num_frames >= self._due_at

    @property
    def is_full(self) -> bool:
        """Whether a commit should wait for the running checkpoint."""
        return self.num_frames >= self._full

    def grew_to(self, num_frames: int) -> None:
        """A commit ended, and the log has `num_frames`."""
        if num_frames <= self.num_frames:  # the log restarted
            self._due_at, self._gap = self._usual, self._first_gap
        self.num_frames = num_frames

    def checkpoint_ended(self, num_frames: int) -> None:
        """A checkpoint that started at `num_frames` has ended."""
        if (
            self.num_frames >= num_frames
        ):  # the next commit restarts the log, or a reader prevents it
            self._due_at = self.num_frames + self._gap
            self._gap = min(2 * self._gap, self._usual)


def _frames_of(num_bytes: int, frame_bytes: int) -> int:
    return max(1, num_bytes // frame_bytes)
