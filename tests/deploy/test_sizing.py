"""The page on sizing says what was measured."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np

from tests.architecture.project_files import ROOT
from tests.benchmarks.routing import Ring, simulate

SCRIPT = ROOT / "deploy/sizing.py"


def test_tables_are_those_of_the_kept_measurements() -> None:
    printed = subprocess.run(
        [sys.executable, str(SCRIPT)], check=True, capture_output=True, text=True
    ).stdout
    page = (ROOT / "deploy/sizing.md").read_text()
    tables = printed.strip().split("\n\n")
    assert len(tables) == 3
    assert all(table in page for table in tables)


def test_the_scarcest_part_decides_and_is_named() -> None:
    spec = spec_from_file_location("sizing", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    sizing = module_from_spec(spec)
    spec.loader.exec_module(sizing)
    cheap = {
        "replica_us_per_request": 600.0,
        "replica_us_per_bulk_step": 60.0,
        "valkey_us_per_step": 0.006,
        "valkey_bytes_per_session": 1600.0,
        "log_bytes_per_step": 0.0,
    }
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in sizing.sizes(cheap)[2:]]
    assert rows[0][2:] == ["2", "2", "0.0", "0", "1", "nothing", "one Valkey"]
    assert rows[1][2:4] == ["100", "10"]
    assert rows[1][7] == "replicas' processors"
    assert rows[6][4:] == ["160.0", "0", "10", "Valkey's memory", "a Valkey cluster"]


def test_one_replica_more_moves_its_share_and_no_other() -> None:
    places = np.random.default_rng(1).random(20_000)
    before, after = Ring(8).owners(places), Ring(9).owners(places)
    moved = before != after
    assert set(after[moved]) == {8}
    assert 0.07 < moved.mean() < 0.16


def test_a_record_that_another_replica_moved_on_is_stale() -> None:
    sessions = np.zeros(8, int)
    alternating = np.array([0, 1] * 4)
    assert simulate(sessions, alternating, 2, 10) == {"warm": 0.0, "stale": 1.0, "cold": 0.0}
    assert simulate(sessions, np.zeros(8, int), 2, 10) == {"warm": 1.0, "stale": 0.0, "cold": 0.0}
    both = np.array([0, 1] * 4)
    assert simulate(both, np.zeros(8, int), 1, 1) == {"warm": 0.0, "stale": 0.0, "cold": 1.0}
