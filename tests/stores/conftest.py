import pytest

from service.stores.memory import MemoryStore
from service.stores.sqlite import SqliteStore
from tests.stores.support import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "sqlite-power", "sqlite-process"])
async def store(request, clock, tmp_path):
    if request.param == "memory":
        opened = MemoryStore(clock)
    else:
        durability = request.param.removeprefix("sqlite-")
        opened = SqliteStore.open(tmp_path / "s.db", durability, clock)
    yield opened
    await opened.close()
