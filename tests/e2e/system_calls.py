"""What a traced process asked of the system, and what a power cut at any moment would leave of it.

Rule 1: a write counts from when the call came back, a reply from when it was handed over, and a
        sync, once it came back, for what was written before it was asked for: the worse case.
Rule 2: what was written and not synced may be on the disk or not, each write by itself.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

WRITES = ("pwrite64", "ftruncate", "unlink")
SYNCS = ("fdatasync", "fsync")
SENDS = ("sendto",)
# Each line is a call that came back, one that began, or the end of one that began before. All text
# is printed as \xNN, so that nothing in it can be taken for the syntax around it.
_HEX = r"((?:\\x[0-9a-f]{2})*)"
_CALL = re.compile(rf'(\d+) +(\w+)\((?:\d+<{_HEX}>)?(?:, )?(?:"{_HEX}")?(?:, )?([\d, ]*)')
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>.*= (-?\d+)")
_RESULT = re.compile(r"\) += (-?\d+)")


class Call(NamedTuple):
    """`numbers` are the arguments behind the text; `path` is that of the file."""

    name: str
    path: str
    data: bytes
    numbers: list[int]


class Event(NamedTuple):
    """A call that begins or, as it came back well, ends."""

    is_end: bool
    call: Call


def traced(strace: str, log: Path) -> list[str]:
    """What to put before a command; the traced process has the id of the command itself."""
    calls = ",".join([*WRITES, *SYNCS, *SENDS])
    how = ["-D", "-f", "--seccomp-bpf", "-y", "-xx", "-s", "1000000", "-e", f"trace={calls}"]
    return [strace, *how, "-e", "signal=none", "-o", str(log)]


def events_of(log: Path) -> Iterator[Event]:
    """The calls of all threads, in the order in which they began and ended."""
    begun: dict[tuple[str, str], Call] = {}
    for line in log.read_text().splitlines():
        if resumed := _RESUMED.match(line):
            call = begun.pop((resumed[1], resumed[2]))
            if int(resumed[3]) >= 0:
                yield Event(True, call)
        elif found := _CALL.match(line):
            thread, name, path, data, numbers = found.groups()
            text = bytes.fromhex((data or "").replace("\\x", ""))
            where = bytes.fromhex((path or "").replace("\\x", "")).decode() or text.decode()
            call = Call(name, where, text, [int(each) for each in re.findall(r"\d+", numbers)])
            yield Event(False, call)
            if line.endswith("<unfinished ...>"):
                begun[thread, name] = call
            elif (result := _RESULT.search(line)) and int(result[1]) >= 0:
                yield Event(True, call)


class Disk:
    """Files as a power cut would leave them."""

    def __init__(self) -> None:
        self._synced: dict[str, bytearray] = defaultdict(bytearray)
        self._unsynced: dict[str, list[Call]] = defaultdict(list)
        self._being_synced: dict[str, list[int]] = defaultdict(list)

    def apply(self, event: Event) -> None:
        call = event.call
        if call.name in WRITES and event.is_end:
            self._unsynced[call.path].append(call)
        elif call.name in SYNCS and not event.is_end:
            self._being_synced[call.path].append(len(self._unsynced[call.path]))
        elif call.name in SYNCS:
            count = self._being_synced[call.path].pop(0)
            for each in self._unsynced[call.path][:count]:
                _write(self._synced[call.path], each)
            del self._unsynced[call.path][:count]
            self._being_synced[call.path] = [
                max(0, other - count) for other in self._being_synced[call.path]
            ]

    def lay_down(self, folder: Path, part: float, rng: random.Random) -> None:
        """Make the files in `folder`, with about `part` of the writes that were not synced."""
        for path in set(self._synced) | set(self._unsynced):
            content: bytearray | None = bytearray(self._synced[path])
            for call in self._unsynced[path]:
                if rng.random() < part:
                    content = _write(content, call)
            if content is not None:
                (folder / Path(path).name).write_bytes(content)


def _write(content: bytearray | None, call: Call) -> bytearray | None:
    """None: the file is gone."""
    if call.name == "unlink":
        return None
    content = bytearray() if content is None else content
    if call.name == "ftruncate":
        [size] = call.numbers
        content[size:] = bytes(max(0, size - len(content)))
        return content
    _, start = call.numbers
    content.extend(bytes(max(0, start - len(content))))
    content[start : start + len(call.data)] = call.data
    return content
