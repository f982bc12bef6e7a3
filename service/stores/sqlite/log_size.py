"""How long the write-ahead log is after each commit, and when a checkpoint is due for it.

Rule 1: what counts is the log itself, not what was asked to be written: a commit of one small
        record writes whole pages, of indexes too.
Rule 2: a checkpoint is due at `CHECKPOINT_BYTES`. One that could not be finished, because somebody
        reads the log, is tried again after a little more, then after twice that, up to the same.
Rule 3: while a checkpoint is under way and the log is longer than `FULL_BYTES`, commits wait for
        it. So the log stays below that and what the groups in flight write, as long as nobody reads
        it for long: while somebody does, as a backup does, it grows.
"""

from typing import Final

CHECKPOINT_BYTES: Final = 16 * 2**20
RETRY_BYTES: Final = 2 * 2**20
FULL_BYTES: Final = 40 * 2**20
KEPT_BYTES: Final = 32 * 2**20
"""The file is cut to this where it was longer, by the first commit that begins the log anew."""

# https://sqlite.org/walformat.html
HEAD_BYTES: Final = 32
FRAME_HEAD_BYTES: Final = 24


class LogSize:
    """In frames, of a page each. `grew_to` is called by whichever thread commits."""

    def __init__(self, frame_bytes: int, num_frames: int) -> None:
        self.num_frames = num_frames
        """After the last commit of this process; others may have added to it since."""
        self._usual = _frames_of(CHECKPOINT_BYTES, frame_bytes)
        self._full = _frames_of(FULL_BYTES, frame_bytes)
        self._first_gap = self._gap = _frames_of(RETRY_BYTES, frame_bytes)
        self._due_at = self._usual

    @property
    def is_due(self) -> bool:
        """Whether a checkpoint should begin."""
        return self.num_frames >= self._due_at

    @property
    def is_full(self) -> bool:
        """Whether a commit should wait for the checkpoint that is under way."""
        return self.num_frames >= self._full

    def grew_to(self, num_frames: int) -> None:
        """A commit ended and left so many frames."""
        if num_frames <= self.num_frames:  # the log was begun anew
            self._due_at, self._gap = self._usual, self._first_gap
        self.num_frames = num_frames

    def was_tried(self, num_frames: int) -> None:
        """A checkpoint that began at so many frames has ended."""
        if self.num_frames >= num_frames:  # the next commit begins the log anew, or it is read
            self._due_at = self.num_frames + self._gap
            self._gap = min(2 * self._gap, self._usual)


def _frames_of(num_bytes: int, frame_bytes: int) -> int:
    return max(1, num_bytes // frame_bytes)
