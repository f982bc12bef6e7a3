"""The tables of deploy/sizing.md, from what was measured: python deploy/sizing.py

Reads measured.json (python -m tests.benchmarks.sizing) and routing.json (python -m
tests.benchmarks.routing) beside it, and prints Markdown.
"""

import json
import math
import sys
from pathlib import Path

SESSIONS = {"10 k": 1e4, "1 M": 1e6, "100 M": 1e8}
STEPS_PER_S = {"1 k": 1e3, "100 k": 1e5, "10 M": 1e7}
BUSY = 0.6  # share of a core that is planned for: the rest is for bursts and for a lost neighbour
SHARD_BYTES = 16e9  # maxmemory of one Valkey; its machine has twice that
DISK_BYTES_PER_S = 300e6  # of log, written and synced, on one machine
CLUSTER_SHARDS = 500  # of one Valkey cluster: beyond, its gossip is the limit


def main() -> None:
    here = Path(__file__).parent
    measured = json.loads((here / "measured.json").read_text())["figures"]
    routed = json.loads((here / "routing.json").read_text())
    sys.stdout.write("\n".join([*sizes(measured), "", *routing(routed), "", *rescaling(routed)]))
    sys.stdout.write("\n")


def sizes(measured: dict[str, float]) -> list[str]:
    """How many of what, for every number of sessions and of steps."""
    lines = [
        "| sessions | steps/s | replicas, by requests | … by bulk | Valkey, GB | log, MB/s"
        " | shards | bound by | carried by |",
        "|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for sessions, num_sessions in SESSIONS.items():
        for steps, per_s in STEPS_PER_S.items():
            by_request = cores(per_s, measured["replica_us_per_request"])
            in_bulk = cores(per_s, measured["replica_us_per_bulk_step"])
            store_bytes = num_sessions * measured["valkey_bytes_per_session"]
            log = per_s * measured["log_bytes_per_step"]
            needs = {
                "Valkey's memory": store_bytes / SHARD_BYTES,
                "Valkey's processor": per_s * measured["valkey_us_per_step"] / 1e6 / BUSY,
                "the disks of the log": log / DISK_BYTES_PER_S,
            }
            shards = max(1, math.ceil(max(needs.values())))
            bound = max(needs, key=lambda name: needs[name])
            if shards == 1:
                bound = "replicas' processors" if by_request > 2 else "nothing"
            lines.append(
                f"| {sessions} | {steps} | {max(2, by_request):,} | {max(2, in_bulk):,}"
                f" | {store_bytes / 1e9:,.1f} | {log / 1e6:,.0f} | {shards:,} | {bound}"
                f" | {engine(shards)} |"
            )
    return lines


def cores(per_s: float, us: float) -> int:
    return math.ceil(per_s * us / 1e6 / BUSY)


def engine(shards: int) -> str:
    if shards == 1:
        return "one Valkey"
    if shards <= CLUSTER_SHARDS:
        return "a Valkey cluster"
    return f"{math.ceil(shards / CLUSTER_SHARDS)} regions, a cluster each"


def routing(routed: dict) -> list[str]:
    """Shares of the steps by where their session was."""
    lines = ["| replicas | front | warm | stale | cold |", "|---:|---|---:|---:|---:|"]
    lines += [
        f"| {each['replicas']} | {each['way']} | {each['warm']:.1%} | {each['stale']:.1%}"
        f" | {each['cold']:.1%} |"
        for each in routed["routing"]
    ]
    return lines


def rescaling(routed: dict) -> list[str]:
    """What one replica more moves, and how even the shares are."""
    lines = [
        "| replicas | sessions moved by one more | sessions of the fullest, by the mean |",
        "|---:|---:|---:|",
    ]
    lines += [
        f"| {each['replicas']} | {each['moved_by_one_more']:.1%} | {each['fullest_by_mean']:.2f} |"
        for each in routed["rescaling"]
    ]
    return lines


if __name__ == "__main__":
    main()
