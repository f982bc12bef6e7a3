"""The process behind `verifier.py`: tries bundles out, so that no other process meets what is wrong
in one of them before it is refused.

A line of JSON for each bundle comes in, a line of JSON goes out.

Rule 1: it ends with its input, and with the process that started it, even while a graph runs for
        ever. The system ends it after more processor time than one bundle may take.
Rule 2: it may take some memory, and where memory is short it is the first process to go.
Rule 3: nothing that a bundle prints reaches the logs or the answers.
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
"""Of memory, beside what grows with the bundle."""
_BYTES_PER_BYTE: Final = 6
"""Of memory for each byte of a bundle: it is read, parsed, laid out anew and run."""
_PARENT_EVERY_S: Final = 0.5


def main() -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # sent by the terminal to all processes: the parent decides
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    provider = resolve_provider(sys.argv[1])
    _say(answers, {"ready": True})
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        bound_cpu(asked["limit_s"] * (asked["num_threads"] + 1))
        _say(answers, _verified(Path(asked["folder"]), provider, asked["num_threads"]))


def _verified(folder: Path, provider: str, num_threads: int) -> dict[str, str]:
    """The digest of a bundle that can be served, or why it cannot."""
    try:
        if provider == "cpu":  # others map more than they use
            bound_memory(_ROOM_BYTES + _BYTES_PER_BYTE * _bytes_of(folder))
        bundle = read_bundle(folder)
        load_model(bundle, provider, num_threads)
    except MemoryError:
        return _refusal(BundleError("it takes more memory than a bundle of its size should"))
    except BaseException as error:  # the boundary: a panic of a library is no Exception
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


def _say(answers: Any, said: dict[str, Any]) -> None:  # noqa: ANN401 -- a text file
    # As ASCII: a name in a bundle may be half of a surrogate pair.
    answers.write(json.dumps(said) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
