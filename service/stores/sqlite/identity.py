"""Whether the files of the store still are what was opened: SQLite itself never asks again.

Rule 1: a file that is removed, renamed or replaced is written to until it is closed, and then gone
        with all that was acknowledged meanwhile. So each request ends with a look: the paths must
        lead to the same files, and the database file may not be shorter than it was.
Rule 2: a log that is cut is hidden by the next commit, which writes behind the hole, and that may
        be another process's. So each commit looks whether all frames are there that were written
        since this process last committed.
Rule 3: what looks wrong may be another process's doing (it took the log up, or vacuumed the file):
        SQLite is asked before it is believed.
Rule 4: files that are put back as they were can be used again; those that were cut cannot.
Rule 5: nothing is opened here but the log: to close another file would release SQLite's locks.

Not seen: another database of the same size or more that is written into the same file.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw

from service.errors import StartUpError
from service.stores.sqlite.log_size import HEAD_BYTES

# Each request asks for three: pathlib takes as long again as the system.
_stat = os.stat

_PAGE_NUMBER_BYTES: Final = 4
_NUM_LOOKS: Final = 3
_FILES: Final = (("", "database file"), ("-wal", "write-ahead log"), ("-shm", "shared-memory file"))


class FileIdentity:
    """Owned by the store, which opens it behind its first transaction; it holds nothing open."""

    def __init__(
        self, path: Path, count_bytes: Callable[[], int], count_frames: Callable[[], int]
    ) -> None:
        """`count_bytes` of the database and `count_frames` of its log ask SQLite."""
        self.change: str | None = None
        """What was wrong at the last look."""
        self.is_suspect = False
        """A look is needed now: later what it would see may be hidden."""
        self._path = path.absolute()
        self._count_bytes = count_bytes
        self._count_frames = count_frames
        self._opened: tuple[tuple[str, int, int], ...] = ()
        self._num_bytes = 0
        self._cut: str | None = None
        self._missing_frame = 0
        self._log_file: int
        self._frame_bytes: int

    def open(self, log_file: int, frame_bytes: int, num_frames: int) -> None:
        """Remember the files as they are now.

        Raises:
            StartUpError: the log was truncated, and others that have it open count on more.
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
        """A commit has ended; called by whichever thread commits, with the log's frames.

        `before`: of the last commit of this process; the log may have been begun anew since.
        """
        first = max(before, 1) if now > before else 1
        for frame in range(first, now):
            if not self._has_frame(frame):
                self._missing_frame, self.is_suspect = frame, True
                return

    def look(self) -> str | None:
        """What happened to the files, for people; None if nothing did."""
        self.change = self._cut or self._look()
        return self.change

    @property
    def may_be_moved_into(self) -> bool:
        """Whether the log may be moved into the file: also where its path alone is gone, so that
        nothing of it is lost, but not where another process may write one in its place. For any
        thread; SQLite is not asked."""
        if self._cut or self.is_suspect:
            return False
        file, of_log, index = self._opened
        try:
            return (
                _leads_to(file)
                and _leads_to(index)
                and (_leads_to(of_log) or not os.path.lexists(of_log[0]))
                and _stat(file[0]).st_size >= self._num_bytes
            )
        except OSError:
            return False

    def _look(self) -> str | None:
        if self.is_suspect and self._is_log_cut():
            self._cut = "its write-ahead log was truncated"
            return self._cut
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
        if num_bytes < self._num_bytes and self._is_cut_to(num_bytes):
            self._cut = "its database file was truncated"
            return self._cut
        self._num_bytes = num_bytes
        return None

    def _explain(self, path: str, error: OSError) -> str:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            return f"its {self._name_of(path)} cannot be looked at ({error.strerror})"
        what = self._name_of(path) if self._path.parent.is_dir() else "folder"
        return f"its {what} was removed or renamed"

    def _name_of(self, path: str) -> str:
        return dict(_FILES)[path.removeprefix(str(self._path))]

    def _is_cut_to(self, num_bytes: int) -> bool:
        try:
            return num_bytes < self._count_bytes()
        except apsw.Error:  # what it would be read from is gone
            return True

    def _is_log_cut(self) -> bool:
        """Whether SQLite still counts on the frame that is missing."""
        self.is_suspect = False
        frame = self._missing_frame
        try:
            return all(
                self._count_frames() >= frame and not self._has_frame(frame)
                for _ in range(_NUM_LOOKS)
            )
        except apsw.Error:
            return True

    def _has_frame(self, frame: int) -> bool:
        # A frame begins with the number of its page, and there is no page 0: a hole reads as zeros.
        at = HEAD_BYTES + (frame - 1) * self._frame_bytes
        return any(os.pread(self._log_file, _PAGE_NUMBER_BYTES, at))


def _leads_to(opened: tuple[str, int, int]) -> bool:
    path, inode, device = opened
    return os.path.lexists(path) and _is_same(_stat(path), inode, device)


def _is_same(found: os.stat_result, inode: int, device: int) -> bool:
    return found.st_ino == inode and found.st_dev == device
