"""No module imports itself by way of others, for type checkers included, and folders stay small."""

from collections import Counter
from graphlib import CycleError, TopologicalSorter

import grimp
import pytest

from tests.architecture.project_files import project_files

MOST_MODULES = 14
ONE_FILE_A_CELL = "training/cells"


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
