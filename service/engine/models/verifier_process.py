"""The process of `verifier.py`: verifies bundles, so that a faulty one harms no other process.

It reads a line of JSON for each bundle and writes a line of JSON with the result.

Rule 1: it ends when its input ends, and when its parent ends, even while a graph runs forever. The
        system kills it after more processor time than one bundle may use.
Rule 2: its memory is limited, and if memory is short the system kills it first.
Rule 3: nothing that a bundle prints reaches the logs or the results.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from service.contract.bundle import read_bundle
from service.contract.errors import BundleError
from service.engine.graph.runner import resolve_provider
from service.engine.models.loader import load_model, reason_of
from service.process_bounds import bound_cpu, bound_memory

_ROOM_BYTES: Final = 2**30
"""Memory besides the part that grows with the bundle."""
_BYTES_PER_BYTE: Final = 6
"""Memory for each byte of a bundle: it is read, parsed, optimised and run."""
_PARENT_EVERY_S: Final = 0.5


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    provider = resolve_provider(sys.argv[1])
    _write(answers, {"ready": True})
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    for line in sys.stdin.buffer:
        question = json.loads(line)
        bound_cpu(question["limit_s"] * (question["num_threads"] + 1))
        _write(answers, _verified(Path(question["folder"]), provider, question["num_threads"]))


def _verified(folder: Path, provider: str, num_threads: int) -> dict[str, str]:
    """The digest of a valid bundle, or the reason for refusing it."""
    try:
        if provider == "cpu":  # CUDA maps far more than it uses
            bound_memory(_ROOM_BYTES + _BYTES_PER_BYTE * _bytes_of(folder))
        bundle = read_bundle(folder)
        load_model(bundle, provider, num_threads)
    except MemoryError:
        return _refusal(
            BundleError("it needs more memory than expected for its size: export a smaller graph")
        )
    except BaseException as error:  # the boundary: a panic of a library is not an Exception
        return _refusal(error)
    return {"digest": bundle.manifest_digest}


def _refusal(error: BaseException) -> dict[str, str]:
    known = error if isinstance(error, Exception) else BundleError(type(error).__name__)
    return {"refused": reason_of(known), "detail": f"{type(error).__name__}: {error}"[:2000]}


def _bytes_of(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_EVERY_S)
    os._exit(1)


def _write(answers: Any, answer: dict[str, Any]) -> None:  # noqa: ANN401 -- a text file
    # ASCII, because a name in a bundle can contain an unpaired surrogate.
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
