"""Bring docker-compose.yml up on the engine at DOCKER_HOST and try what it promises.

Run by compose_check.sh, inside its namespace. Environment: COMPOSE and DOCKER, the two programs;
UP, the names of the containers to start. Ends with the first promise that does not hold.
"""

import json
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

import yaml
from compose_stack import (
    PROMETHEUS,
    SERVICE,
    Stream,
    compose,
    containers,
    fails,
    get,
    inside,
    is_well,
    post,
    query,
    run,
    say,
    state,
    wait_until,
)

GRAFANA_WORDS = {"$__rate_interval": "1m", "$__range": "1h", "$model": ".*"}
NUM_SESSIONS = 4
NUM_STEPS = 1000
PAUSE_S = 0.05


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
        check_streams_through_failures()
        check_backup()
        check_prometheus()
        check_expressions()
        check_stop()
    except BaseException:
        sys.stderr.write(compose("ps", "--all") + compose("logs", "--tail", "20"))
        raise
    finally:
        compose("down", "--volumes", "--timeout", "5")


def check_guards() -> None:
    assert inside("service", "id", "-u") == "10001"
    for container in os.environ["UP"].split():
        # As root, whom no permission stops: it is the file system that refuses.
        as_root = ("--user", "0", container, "touch", "/usr/probe")
        assert fails(*as_root), f"{container} can write to its root file system"
        status = dict(
            line.split(":", 1) for line in inside(container, "cat", "/proc/1/status").splitlines()
        )
        assert int(status["Uid"].split()[0]) > 0, f"{container} is root"
        assert int(status["CapEff"], 16) == 0, f"{container} holds capabilities"
        assert int(status["NoNewPrivs"]) == 1, f"{container} may gain privileges"
    assert fails("service", "python", "-c", "import torch")
    say("no root, no capabilities, nothing written outside volumes, no torch")


def check_networks() -> None:
    open_ports = {line.split()[3] for line in run("ss", "-Hltn").splitlines()}
    assert {address.rpartition(":")[0] for address in open_ports} <= {"127.0.0.1", "127.0.0.11"}
    reached = [
        ("service", "valkey/6379"),
        ("front", "service/8000"),
        ("prometheus", "service/8000"),
    ]
    for container, place in reached:
        assert not fails(container, "bash", "-c", f"</dev/tcp/{place}"), (container, place)
    for container in ("front", "prometheus", "node-exporter"):
        assert fails(container, "bash", "-c", "</dev/tcp/valkey/6379"), container
    say("published on 127.0.0.1 alone; only replicas and its exporter reach Valkey")


def check_valkey() -> None:
    assert "NOAUTH" in inside("valkey", "valkey-cli", "dbsize")
    login = "export REDISCLI_AUTH=$(cat /run/secrets/valkey_password); valkey-cli config get "
    promised = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
    for name, expected in promised.items():
        answer = inside("valkey", "sh", "-c", login + name)
        assert answer.splitlines() == [name, expected], answer
    words = inside("valkey", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert inside("valkey", "cat", "/run/secrets/valkey_password") not in words
    say("Valkey asks for its password, syncs every commit and evicts nothing")


def check_streams_through_failures() -> None:
    model = get(f"{SERVICE}/v1/models/transit-ridership")
    streams = [Stream(f"stream-{place}", model, PAUSE_S) for place in range(NUM_SESSIONS)]
    for stream in streams:
        stream.start()
    try:
        wait_for_steps(streams, NUM_STEPS // 5)
        # Killed as a crash kills it: the engine starts it again by itself.
        [first, _] = containers("service")
        killed = state(first)
        os.kill(killed["Pid"], signal.SIGKILL)
        wait_until(lambda: state(first)["StartedAt"] != killed["StartedAt"], "it is started again")
        wait_until(lambda: is_well(first), "the killed replica is well again")
        wait_for_steps(streams, NUM_STEPS * 2 // 5)
        before_roll = sum(stream.num_repeated for stream in streams)
        old = set(containers("service"))
        run("deploy/roll.sh")
        assert len(containers("service")) == 2
        assert not old & set(containers("service"))
        in_roll = sum(stream.num_repeated for stream in streams) - before_roll
        wait_for_steps(streams, NUM_STEPS * 3 // 5)
        compose("restart", "valkey")
        wait_until(lambda: is_well(containers("valkey")[0]), "Valkey is well again")
        more = max(NUM_STEPS, sum(len(stream.rows) for stream in streams) + 100)
        wait_for_steps(streams, more)
    finally:
        for stream in streams:
            stream.finish()
    say(
        f"{sum(len(s.rows) for s in streams)} steps of {NUM_SESSIONS} sessions are exact through a"
        f" killed replica, a rolling restart ({in_roll} repeated) and a restart of Valkey"
        f" ({sum(s.num_repeated for s in streams)} repeated in all)"
    )


def check_backup() -> None:
    session = f"{SERVICE}/v1/sessions/stream-0"
    kept = get(session)
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/sessions.rdb"
        run("deploy/backup.sh", file)
        body = {"step": kept["step"], "observations": [{}]}
        assert post("/v1/sessions/stream-0/steps", body)["step"] == kept["step"] + 1
        run("deploy/restore.sh", file)
    wait_until(lambda: len(containers("service")) == 2, "both replicas are back")
    found = get(session)
    same = ("step", "model", "start", "created_at", "state_norms")
    assert [found[name] for name in same] == [kept[name] for name in same]
    assert post("/v1/sessions/stream-0/steps", body)["step"] == kept["step"] + 1
    say("a backup taken while it serves brings sessions back to where they were")


def wait_for_steps(streams: list[Stream], count: int) -> None:
    def done() -> bool:
        for stream in streams:
            if stream.error is not None:
                raise stream.error
        return sum(len(stream.rows) for stream in streams) >= count

    wait_until(done, f"{count} steps")


def check_prometheus() -> None:
    wait_until(
        lambda: len(query('up{job="carry"} == 1')) == 2 and len(query('up{job="carry"}')) == 2,
        "Prometheus sees both new replicas and forgot the old ones",
    )
    wait_until(
        lambda: query("redis_up == 1") and query("redis_memory_max_bytes > 0"), "Valkey is seen"
    )
    wait_until(lambda: query("node_filesystem_avail_bytes > 0"), "a disk is seen")
    say("Prometheus scrapes both replicas, Valkey and the disks")


def check_expressions() -> None:
    dashboard = json.loads(Path("deploy/grafana/dashboards/carry.json").read_text())
    expressions = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])
    ]
    for path in Path("deploy/prometheus").glob("*.yml"):
        groups = yaml.safe_load(path.read_text()).get("groups", [])
        expressions += [rule["expr"] for group in groups for rule in group["rules"]]
    known = get(f"{PROMETHEUS}/api/v1/metadata")["data"]
    for expression in expressions:
        for word, value in GRAFANA_WORDS.items():
            expression = expression.replace(word, value)
        query(expression)
        for name in re.findall(r"\bcarry_[a-z_]+", expression):
            # By the text format a counter's family has its whole name, by OpenMetrics no _total.
            families = {name, re.sub(r"_(bucket|sum|count|total)$", "", name)}
            assert families & set(known), f"no metric {name}"
    rules = get(f"{PROMETHEUS}/api/v1/rules")["data"]["groups"]
    broken = [rule["name"] for group in rules for rule in group["rules"] if rule["health"] != "ok"]
    assert not broken, broken
    say(f"Prometheus answers all {len(expressions)} expressions of panels, rules and alerts")


def check_stop() -> None:
    started = time.monotonic()
    stopping = containers("service")
    compose("stop", "service")
    assert all(state(each)["ExitCode"] == 0 for each in stopping), [state(c) for c in stopping]
    say(f"SIGTERM ends the replicas with 0 after {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
