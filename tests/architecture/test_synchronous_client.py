from pathlib import Path

import pytest

from tests.architecture.synchronous_client import SOURCES, twin_of, written


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.parent.name)
def test_the_client_for_threads_is_that_for_asyncio_without_waiting(source: Path) -> None:
    assert twin_of(source).read_text() == written(source), "run make client"
