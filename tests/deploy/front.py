"""The shipped nginx, as it is but for its ports and folders, in front of what a test puts there."""

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.architecture.project_files import ROOT
from tests.system import free_port, in_thread, require_program, running_process

NGINX = ROOT / "deploy/nginx"
START_S = 20


@contextmanager
def running_nginx(
    folder: Path, ports: list[int], changes: Sequence[tuple[str, str]] = ()
) -> Iterator[str]:
    """The address of nginx before `ports` of this machine; it logs to `access.log`.

    `changes`: what else stands in its configuration, old and new.
    """
    program = require_program("nginx", package="nginx-light")
    port = free_port()
    config = (NGINX / "nginx.conf").read_text()
    for old, new in changes:
        config = replaced(config, old, new)
    config = replaced(config, "listen 8080", f"listen 127.0.0.1:{port}")
    config = replaced(config, "/tmp/", f"{folder}/")
    config = replaced(config, "/dev/stdout", f"{folder}/access.log")
    config = replaced(config, "/dev/stderr", f"{folder}/error.log")
    config = replaced(config, "worker_processes 1;", "daemon off; worker_processes 1;")
    if os.getuid() == 0:  # else the workers would be nobody, who may not write into `folder`
        config = "user root;\n" + config
    (folder / "nginx.conf").write_text(config)
    shipped = (NGINX / "replicas.conf").read_text()
    [server] = re.findall(r"server service:8000 resolve (.*);", shipped)
    servers = "\n".join(f"server 127.0.0.1:{each} {server};" for each in ports)
    shipped = replaced(shipped, f"server service:8000 resolve {server};", servers)
    (folder / "replicas.conf").write_text(shipped)
    command = [program, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "start"]
    with running_process(command) as process:
        wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}"


def replaced(text: str, old: str, new: str) -> str:
    assert old in text, old
    return text.replace(old, new)


def wait_for_port(port: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_S
    while True:
        assert process.poll() is None, "nginx does not start: its words are above"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


class Replica:
    """A stand-in for a replica: notes each request, answers its path's echo, or dies over it."""

    def __init__(self, *, dies: bool = False) -> None:
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        replica = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                replica.requests.append((self.command, self.path))
                replica.headers.append(dict(self.headers.items()))
                if dies:
                    self.close_connection = True
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("X-Content-Type-Options", "nosniff")
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815 the base class asks for this name

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._stack = ExitStack()
        self.port = self._server.server_port

    def __enter__(self) -> "Replica":
        self._stack.callback(self._server.server_close)
        serving = in_thread(self._server.serve_forever, stop=self._server.shutdown)
        self._stack.enter_context(serving)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)
