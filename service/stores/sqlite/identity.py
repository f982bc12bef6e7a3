"""Checks that the files of the store are those that were opened, which SQLite does not check.

Rule 1: SQLite continues to write to a file that was removed, renamed or replaced, and everything
        acknowledged meanwhile is lost when it is closed. So each request ends with a check: the
        paths must lead to the same files, and the database file must not be shorter than before.
Rule 2: the next commit after a truncation of the log hides it, because it writes after the hole,
        and may be another process's. So each commit checks that the log contains all frames since
        the last commit of this process.
Rule 3: another process may have caused a difference (a checkpoint, a vacuum), so SQLite is queried
        before a file is reported as truncated.
Rule 4: the same files can be used again when they are put back; truncated ones cannot.
Rule 5: only the log is opened here: closing any other file would release SQLite's locks.

Not detected: another database, at least as long, that is written into the same file.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw

from service.errors import StartUpError
from service.stores.sqlite.log_size import HEADER_BYTES

# Each request makes three of these calls, and pathlib would double their time.
_stat = os.stat

_PAGE_NUMBER_BYTES: Final = 4
_NUM_CHECKS: Final = 3
_FILES: Final = (("", "database file"), ("-wal", "write-ahead log"), ("-shm", "shared-memory file"))


class FileIdentity:
    """Owned by the store, which opens it after its first transaction; it holds no file open."""

    def __init__(
        self, path: Path, count_bytes: Callable[[], int], count_frames: Callable[[], int]
    ) -> None:
        """`count_bytes` (of the database) and `count_frames` (of its log) query SQLite."""
        self.change: str | None = None
        """What the last check found, None if nothing."""
        self.is_suspect = False
        """A check is needed now, before the next commit hides the truncation."""
        self._path = path.absolute()
        self._count_bytes = count_bytes
        self._count_frames = count_frames
        self._opened: tuple[tuple[str, int, int], ...] = ()
        self._num_bytes = 0
        self._truncated: str | None = None
        self._missing_frame = 0
        self._log_file: int
        self._frame_bytes: int

    def open(self, log_file: int, frame_bytes: int, num_frames: int) -> None:
        """Record the files as they are now.

        Raises:
            StartUpError: the log was truncated while other processes had it open.
        """
        self._log_file, self._frame_bytes = log_file, frame_bytes
        if not all(map(self._has_frame, range(1, num_frames + 1))):
            raise StartUpError(
                f"CARRY_STORE: the write-ahead log of {self._path} was truncated while it was in"
                " use: stop all processes that use it, restore a backup and start them"
            )
        opened = []
        for suffix, _ in _FILES:
            path = f"{self._path}{suffix}"
            found = _stat(path)
            opened.append((path, found.st_ino, found.st_dev))
        self._opened = tuple(opened)
        self._num_bytes = _stat(self._path).st_size

    def log_grew(self, before: int, now: int) -> None:
        """A commit has ended, and the log has `now` frames; called on the thread that committed.

        `before` is the count after the last commit of this process; the log may have restarted.
        """
        first = max(before, 1) if now > before else 1
        for frame in range(first, now):
            if not self._has_frame(frame):
                self._missing_frame, self.is_suspect = frame, True
                return

    def check(self) -> str | None:
        """A description of what happened to the files; None if nothing."""
        self.change = self._truncated or self._check()
        return self.change

    @property
    def allows_checkpoint(self) -> bool:
        """Whether the log may be moved into the database file.

        True also if only the log's path was removed, so that its contents are not lost; false if
        another file has that path. May be called on any thread; does not query SQLite.
        """
        if self._truncated or self.is_suspect:
            return False
        database, wal, shm = self._opened
        try:
            return (
                _is_unchanged(database)
                and _is_unchanged(shm)
                and (_is_unchanged(wal) or not os.path.lexists(wal[0]))
                and _stat(database[0]).st_size >= self._num_bytes
            )
        except OSError:
            return False

    def _check(self) -> str | None:
        if self.is_suspect and self._is_log_truncated():
            self._truncated = "its write-ahead log was truncated"
            return self._truncated
        num_bytes = -1
        try:
            for path, inode, device in self._opened:
                found = _stat(path)
                if not _is_same(found, inode, device):
                    return f"its {self._name_of(path)} was replaced"
                if num_bytes < 0:
                    num_bytes = found.st_size
        except OSError as error:
            return self._explain(path, error)
        if num_bytes < self._num_bytes and self._is_truncated_to(num_bytes):
            self._truncated = "its database file was truncated"
            return self._truncated
        self._num_bytes = num_bytes
        return None

    def _explain(self, path: str, error: OSError) -> str:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            return f"its {self._name_of(path)} cannot be checked ({error.strerror})"
        name = self._name_of(path) if self._path.parent.is_dir() else "folder"
        return f"its {name} was removed or renamed"

    def _name_of(self, path: str) -> str:
        return dict(_FILES)[path.removeprefix(str(self._path))]

    def _is_truncated_to(self, num_bytes: int) -> bool:
        try:
            return num_bytes < self._count_bytes()
        except apsw.Error:  # its pages cannot be read any more
            return True

    def _is_log_truncated(self) -> bool:
        """Whether SQLite still expects the frame that is missing."""
        self.is_suspect = False
        frame = self._missing_frame
        try:
            return all(
                self._count_frames() >= frame and not self._has_frame(frame)
                for _ in range(_NUM_CHECKS)
            )
        except apsw.Error:
            return True

    def _has_frame(self, frame: int) -> bool:
        # A frame starts with its page number, which is never 0; a hole reads as zeros.
        at = HEADER_BYTES + (frame - 1) * self._frame_bytes
        return any(os.pread(self._log_file, _PAGE_NUMBER_BYTES, at))


def _is_unchanged(opened: tuple[str, int, int]) -> bool:
    path, inode, device = opened
    return os.path.lexists(path) and _is_same(_stat(path), inode, device)


def _is_same(found: os.stat_result, inode: int, device: int) -> bool:
    return found.st_ino == inode and found.st_dev == device
