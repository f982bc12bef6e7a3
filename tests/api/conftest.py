import pytest

from tests.api.support import serving


@pytest.fixture
async def client():
    async with serving() as client:
        yield client
