"""The real service in a process of its own, on a free port."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.system import end_tree, free_port

ROOT = Path(__file__).parents[2]
START_S = 60


class Server:
    """One process; `restart` brings up another on the same port and store."""

    def __init__(
        self,
        log: Path,
        settings: dict[str, str],
        module: str = "service",
        prefix: Sequence[str] = (),
        root: Path = ROOT,
    ) -> None:
        self._root = root
        self.port = free_port()
        self.log = log
        self.url = f"http://{settings.get('CARRY_HOST', '127.0.0.1')}:{self.port}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("CARRY_")}
        # The service reads its port from the environment, other modules from their first argument.
        self._command = [*prefix, sys.executable, "-m", module]
        self._command += [] if module == "service" else [str(self.port)]
        self._environment = kept | {"CARRY_PORT": str(self.port)} | settings
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self._root, env=self._environment, stderr=log, stdout=log
            )

    def wait_ready(self, path: str = "/readyz") -> None:
        deadline = time.monotonic() + START_S
        with httpx.Client(base_url=self.url) as client:  # to make one costs more than to ask
            while time.monotonic() < deadline:
                assert self.process.poll() is None, self.log.read_text()
                try:
                    if client.get(path).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.05)
        raise AssertionError(f"not ready within {START_S} s:\n{self.log.read_text()}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(30)

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.stop(how)
        self.start()
        self.wait_ready()


@contextmanager
def running_server(
    folder: Path,
    module: str = "service",
    prefix: Sequence[str] = (),
    root: Path = ROOT,
    ready: str = "/readyz",
    **settings,
):
    """`settings` are CARRY_* names without the prefix, in lower case.

    `prefix` runs the command; `root` holds the sources; `ready` is the path that must answer 200.
    """
    given = {f"CARRY_{name.upper()}": str(value) for name, value in settings.items()}
    server = Server(folder / "server.log", given, module, prefix, root)
    try:
        server.wait_ready(ready)
        yield server
    finally:
        end_tree(server.process)
