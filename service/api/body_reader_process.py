"""The process behind `body_reader.py`: reads calls from standard input, writes what comes of them.

Rule 1: it ends at the end of its input and not by a signal to its group: the service asks it for
        the bodies of requests that it accepted before it was told to stop.
Rule 2: it imports neither the web framework nor a runtime for models.
"""

import os
import pickle
import signal
import sys

from service.errors import CarryError

_NICENESS = 10
"""Whoever sends a single step waits for the service, and not for somebody's big body."""


def main() -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    os.nice(_NICENESS)
    calls, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # a stray print must not become an answer
    while True:
        try:
            function, args = pickle.load(calls)  # noqa: S301 -- written by the service
        except EOFError:
            return
        error: CarryError | None = None
        result = None
        try:
            result = function(*args)
        except CarryError as refusal:
            error = refusal
        pickle.dump((error, result), answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    main()
