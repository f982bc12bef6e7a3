"""The real service under requests that are framed wrongly, and what its process takes."""

import struct
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.e2e.server import running_server
from tests.fakes.bundles import write_classifier, write_forecaster

DEADLINE_S = 10.0
GROWTH_BYTES = 24 << 20
STEP = {"observations": [[1.0, 2.0]]}


class Watched:
    """The service, and what its process takes."""

    def __init__(self, server, client):
        self.server, self.client = server, client
        self._process = Path(f"/proc/{server.process.pid}")

    def rss_bytes(self):
        return int((self._process / "statm").read_text().split()[1]) * 4096

    def num_descriptors(self):
        return len(list((self._process / "fd").iterdir()))

    def serves(self):
        """A good request is answered."""
        answer = self.client.post("/v1/sessions/good/steps", json=STEP)
        assert answer.status_code == 200, answer.text

    def takes_no_more_after(self, rounds, first, last):
        """Whether memory and descriptors are as before, after rounds that follow as many first."""
        rounds(first, (first + last) // 2)
        rss, descriptors = self.rss_bytes(), self.num_descriptors()
        rounds((first + last) // 2, last)
        assert self.rss_bytes() - rss < GROWTH_BYTES
        assert self.num_descriptors() <= descriptors + 2


@contextmanager
def watched_service(folder):
    """With open sessions `good`, for `serves`, and `s`."""
    write_forecaster(folder / "models", uses_time=False)
    write_classifier(folder / "models")
    with (
        running_server(folder, models=folder / "models", store="memory://") as server,
        httpx.Client(base_url=server.url, timeout=DEADLINE_S) as client,
    ):
        for name in ("good", "s"):
            opened = client.post("/v1/sessions", json={"model": "load", "session": name})
            opened.raise_for_status()
        yield Watched(server, client)
        assert server.process.poll() is None
        log = server.log.read_text()
        assert "Traceback" not in log, log[-5000:]


def told_until_end(connection, data=b""):
    """All that comes until the server closes, which it must do in time."""
    try:
        while part := connection.recv(1 << 16):
            data += part
    except ConnectionResetError:
        pass
    return data


def altered(data, chance):
    """Words overwritten by extremes, and bytes cut off, put in or left out."""
    data = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(data)) & ~3
        word = chance.choice((0, 1, -1, 2**31 - 1, -(2**31), chance.getrandbits(31)))
        data[place : place + chance.choice((4, 4, 4, 0, 8))] = struct.pack("<i", word)
    return bytes(data[: chance.choice((len(data), len(data), chance.randrange(len(data))))])
