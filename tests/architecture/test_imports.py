"""No module imports itself by way of others, type checking included; all stay short."""

from collections import Counter
from graphlib import CycleError, TopologicalSorter

import grimp
import pytest

from tests.architecture.project_files import ROOT, project_files

MOST_MODULES = 14
ONE_FILE_A_CELL = "training/cells"
MOST_LINES = 300
LONGER = {
    "service/api/codec/schemas.py": "the members of every body, in one place",
    "service/api/v2/infer_call.py": "one request, from its body to its answer",
    "service/api/websocket/protocol.py": "one state machine",
    "service/api/websocket/stream.py": "one state machine",
    "service/engine/dispatch/dispatcher.py": "the life of a request, in its order",
    "service/engine/engine.py": "what transports call",
    "service/engine/inference/worker.py": "one state machine",
    "service/engine/repository.py": "one state machine",
}
"""Longer modules that would be harder to read in two, and why; none over 400 lines."""


@pytest.mark.parametrize("package", ["service", "training"])
def test_no_import_leads_back(package: str) -> None:
    graph = grimp.build_graph(package, cache_dir=None)
    imports = {each: graph.find_modules_directly_imported_by(each) for each in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(f"these import one another: {' → '.join(error.args[1])}")


def test_no_folder_holds_more_modules_than_a_reader_looks_through() -> None:
    ours = [path for path in project_files(".py") if path.parts[0] in ("service", "training")]
    counts = Counter(str(path.parent) for path in ours if path.name != "__init__.py")
    del counts[ONE_FILE_A_CELL]
    assert not {folder: count for folder, count in counts.items() if count > MOST_MODULES}


def test_modules_are_short_but_for_the_ones_that_are_named() -> None:
    ours = [path for path in project_files(".py") if path.parts[0] in ("service", "training")]
    lines = {str(path): len((ROOT / path).read_text().splitlines()) for path in ours}
    assert {path for path, count in lines.items() if count > MOST_LINES} == LONGER.keys()
    assert max(lines.values()) <= 400
