from pathlib import Path

import pytest

from tests.architecture.synchronous_client import SOURCES, generate, twin_of


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.parent.name)
def test_make_client_would_change_nothing(source: Path) -> None:
    assert twin_of(source).read_text() == generate(source), "run `make client`"
