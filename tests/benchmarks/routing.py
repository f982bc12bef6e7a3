"""What routing does to the records that replicas keep in memory: a simulation.

    python -m tests.benchmarks.routing [--json deploy/routing.json]

A step is *warm* if its replica holds the session as it is now, *stale* if it holds it as it was
(the commit finds out, and the step is run again), *cold* if it must be read from the store. The
front hashes as nginx does (`hash … consistent`: 160 points a replica); *random* is a front without
it. Every replica has room for one and a half times its share of the sessions and forgets the one
unused for longest; sessions are stepped alike.
"""

import argparse
import json
from collections import OrderedDict
from pathlib import Path

import numpy as np

POINTS = 160
ROOM = 1.5
REPLICAS = (2, 4, 16, 64)


class Ring:
    """Session → replica; the same points for a replica, however many others there are."""

    def __init__(self, num_replicas: int) -> None:
        seeds = [np.random.default_rng(1000 + replica) for replica in range(num_replicas)]
        points = np.concatenate([rng.random(POINTS) for rng in seeds])
        owners = np.repeat(np.arange(num_replicas), POINTS)
        order = np.argsort(points)
        self._points, self._owners = points[order], owners[order]

    def owners(self, places: np.ndarray) -> np.ndarray:
        return self._owners[np.searchsorted(self._points, places) % len(self._points)]


def simulate(
    sessions: np.ndarray, replicas: np.ndarray, num_replicas: int, room: int
) -> dict[str, float]:
    """Shares of the second half of the steps, when memory is filled."""
    caches: list[OrderedDict[int, int]] = [OrderedDict() for _ in range(num_replicas)]
    newest: dict[int, int] = {}
    counts = {"warm": 0, "stale": 0, "cold": 0}
    for place, (session, replica) in enumerate(
        zip(sessions.tolist(), replicas.tolist(), strict=True)
    ):
        cache = caches[replica]
        now = newest.get(session, 0)
        held = cache.pop(session, None)
        if 2 * place >= len(sessions):
            counts["cold" if held is None else "warm" if held == now else "stale"] += 1
        cache[session] = newest[session] = now + 1
        if len(cache) > room:
            cache.popitem(last=False)
    total = sum(counts.values())
    return {name: round(count / total, 4) for name, count in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.routing", description=__doc__)
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--json", type=Path, default=Path("bench-results/routing.json"))
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    places = rng.random(asked.sessions)  # where each session's name lies on the ring
    sessions = rng.integers(0, asked.sessions, asked.steps)
    routing, rescaling = [], []
    for num_replicas in REPLICAS:
        room = int(ROOM * asked.sessions / num_replicas)
        owner = Ring(num_replicas).owners(places)
        ways = {
            "hash": owner[sessions],
            "random": rng.integers(0, num_replicas, asked.steps),
        }
        for way, replicas in ways.items():
            shares = simulate(sessions, replicas, num_replicas, room)
            routing.append({"replicas": num_replicas, "way": way} | shares)
        fullest = np.bincount(owner, minlength=num_replicas).max() / (len(places) / num_replicas)
        moved = (Ring(num_replicas + 1).owners(places) != owner).mean()
        rescaling.append(
            {
                "replicas": num_replicas,
                "fullest_by_mean": round(float(fullest), 3),
                "moved_by_one_more": round(float(moved), 4),
            }
        )
    described = {
        "command": f"python -m tests.benchmarks.routing --sessions {asked.sessions}"
        f" --steps {asked.steps}",
        "routing": routing,
        "rescaling": rescaling,
    }
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(described, indent=2) + "\n")
    print(json.dumps(described, indent=2))


if __name__ == "__main__":
    main()
