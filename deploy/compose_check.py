"""Bring docker-compose.yml up on the engine at DOCKER_HOST and try what it promises.

Run by compose_check.sh, inside its namespace. Environment: COMPOSE and DOCKER, the two programs;
UP, the names of the containers to start. Ends with the first promise that does not hold.
"""

import json
import os
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

SERVICE = "http://127.0.0.1:8000"
PROMETHEUS = "http://127.0.0.1:9090"
WAIT_S = 60.0
GRAFANA_WORDS = {"$__rate_interval": "1m", "$__range": "1h", "$model": ".*"}


def main() -> None:
    try:
        started = time.monotonic()
        compose(
            "up", "--detach", "--no-build", "--pull", "never", "--wait", *os.environ["UP"].split()
        )
        say(f"every container is well after {time.monotonic() - started:.1f} s")
        check_guards()
        check_networks()
        check_valkey()
        check_sessions_survive_a_kill()
        check_prometheus()
        check_stop()
    except BaseException:
        sys.stderr.write(compose("ps", "--all") + compose("logs", "--tail", "20"))
        raise
    finally:
        compose("down", "--volumes", "--timeout", "5")


def check_guards() -> None:
    assert inside("service", "id", "-u") == "10001"
    for container in ("service", "valkey", "prometheus"):
        # As root, whom no permission stops: it is the file system that refuses.
        as_root = ("--user", "0", container, "touch", "/usr/probe")
        assert fails(*as_root), f"{container} can write to its root file system"
        status = dict(
            line.split(":", 1) for line in inside(container, "cat", "/proc/1/status").splitlines()
        )
        assert int(status["CapEff"], 16) == 0, f"{container} holds capabilities"
        assert int(status["NoNewPrivs"]) == 1, f"{container} may gain privileges"
    assert fails("service", "python", "-c", "import torch")
    say("no root, no capabilities, nothing written outside volumes, no torch")


def check_networks() -> None:
    open_ports = {line.split()[3] for line in run("ss", "-Hltn").splitlines()}
    assert {address.rpartition(":")[0] for address in open_ports} <= {"127.0.0.1", "127.0.0.11"}
    assert not fails("service", "bash", "-c", "</dev/tcp/valkey/6379")
    assert not fails("prometheus", "bash", "-c", "</dev/tcp/service/8000")
    assert fails("prometheus", "bash", "-c", "</dev/tcp/valkey/6379")
    say("published on 127.0.0.1 alone; only the service reaches Valkey")


def check_valkey() -> None:
    promised = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
    for name, expected in promised.items():
        answer = inside("valkey", "valkey-cli", "config", "get", name)
        assert answer.splitlines() == [name, expected], answer
    say("Valkey syncs every commit and evicts nothing")


def check_sessions_survive_a_kill() -> None:
    [model, *_] = get(f"{SERVICE}/v1/models")["models"]
    body = {"model": model["name"], "session": "compose-check"}
    if model["task"] == "forecast":
        body["start"] = "2024-01-01T00:00:00Z"
    request = urllib.request.Request(  # noqa: S310 our own address
        f"{SERVICE}/v1/sessions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        assert answer.status == 201
    compose("kill", "--signal", "KILL", "service")
    compose("up", "--detach", "--no-build", "--pull", "never", "--wait", "service")
    assert get(f"{SERVICE}/v1/sessions/compose-check")["step"] == 0
    say("a session outlives a killed service")


def check_prometheus() -> None:
    def is_scraped() -> bool:
        [up] = query('up{job="carry"}') or [{"value": [0, "0"]}]
        return bool(up["value"][1] == "1")

    wait_until(is_scraped, "Prometheus sees the service")
    dashboard = json.loads(Path("deploy/grafana/dashboards/carry.json").read_text())
    expressions = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])
    ]
    for expression in expressions:
        for word, value in GRAFANA_WORDS.items():
            expression = expression.replace(word, value)
        query(expression)
    rules = get(f"{PROMETHEUS}/api/v1/rules")["data"]["groups"]
    broken = [rule["name"] for group in rules for rule in group["rules"] if rule["health"] == "err"]
    assert not broken, broken
    say(f"Prometheus scrapes the service, and answers all {len(expressions)} of the dashboard")


def check_stop() -> None:
    started = time.monotonic()
    compose("stop", "service")
    container = compose("ps", "--all", "--quiet", "service").strip()
    state = json.loads(run(os.environ["DOCKER"], "inspect", container))[0]["State"]
    assert state["ExitCode"] == 0, state
    say(f"SIGTERM ends the service with 0 after {time.monotonic() - started:.1f} s")


def query(expression: str) -> list[dict[str, Any]]:
    words = urllib.parse.urlencode({"query": expression})
    result: list[dict[str, Any]] = get(f"{PROMETHEUS}/api/v1/query?{words}")["data"]["result"]
    return result


def get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 our own addresses
        found: dict[str, Any] = json.load(answer)
    return found


def wait_until(holds: Callable[[], bool], claim: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {WAIT_S:.0f} s: {claim}"
        time.sleep(0.5)


def inside(container: str, *words: str) -> str:
    return compose("exec", "-T", container, *words).strip()


def fails(*words: str) -> bool:
    command = [os.environ["COMPOSE"], "exec", "-T", *words]
    return subprocess.run(command, capture_output=True).returncode != 0  # noqa: S603 our words


def compose(*words: str) -> str:
    return run(os.environ["COMPOSE"], "--progress", "quiet", *words)


def run(*command: str) -> str:
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)  # noqa: S603 our words
    return done.stdout


def say(claim: str) -> None:
    sys.stdout.write(f"ok  {claim}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
