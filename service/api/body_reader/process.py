"""The process behind `reader.py`: reads calls from standard input, writes what comes of them.

Rule 1: it ends at the end of its input and not by a signal to its group: the service asks it for
        the bodies of requests that it accepted before it was told to stop.
Rule 2: it imports neither the web framework nor a runtime for models.
Rule 3: one body may take so much memory and so much of a processor's time; the system sees to it. A
        process that is left with much memory after a body says so, and is replaced.
"""

import os
import pickle
import signal
import sys

import service.api.codec.decode  # noqa: F401 -- before memory is bounded: what it stands on takes some
from service.errors import CarryError, TooLargeError
from service.process_bounds import bound_memory, resident_bytes

_NICENESS = 10
"""Whoever sends a single step waits for the service, and not for somebody's big body."""

ROOM_BYTES = 512 * 2**20
BYTES_PER_BYTE = 64
"""Of memory: in any case, and for each byte that a body may have."""

MAX_CPU_S = 10.0
_MOST_LEFT_BYTES = 256 * 2**20


def main() -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    os.nice(_NICENESS)
    bound_memory(ROOM_BYTES + BYTES_PER_BYTE * int(sys.argv[1]))
    calls, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # a stray print must not become an answer
    while True:
        try:
            function, args = pickle.load(calls)  # noqa: S301 -- written by the service
        except EOFError:
            return
        error: CarryError | None = None
        result = None
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)  # SIGPROF ends it, whatever it is in
        try:
            result = function(*args)
        except CarryError as refusal:
            error = refusal
        except MemoryError:
            error = too_much()
        del function, args
        is_last = resident_bytes() > _MOST_LEFT_BYTES
        signal.setitimer(signal.ITIMER_PROF, 0)
        pickle.dump((error, result, is_last), answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()
        if is_last:
            return


def too_much() -> TooLargeError:
    """What is answered to a body that is more than this process may make of it."""
    return TooLargeError(
        "the body takes more memory or time to be read than one request may: expected fewer"
        " values; nothing was applied, send it in parts"
    )


if __name__ == "__main__":
    main()
