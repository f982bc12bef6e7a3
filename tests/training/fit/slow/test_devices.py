"""Fits on several devices, as the command line starts them: processes on this machine's CPU."""

import os
import subprocess
import sys
from pathlib import Path

from tests.training.slow.test_end_to_end import ROOT, to_toml

_PROGRAM = """
import training.__main__ as command_line
from training.fit.lightning_fit import LightningFit

command_line._export = lambda run, *_: print("exported", run.name, flush=True)
LightningFit.on_train_end = lambda fit: (
    fit.global_rank or print("steps", fit._num_steps, fit.global_step, flush=True)
)
command_line.main()
"""


def test_two_devices_share_one_run_and_the_schedule_ends_with_it(
    tmp_path: Path, transit_fields
) -> None:
    transit_fields["fit"] |= {"max_epochs": 2, "batch_size": 2, "schedule": "cosine"}
    transit_fields["fit"] |= {"patience": None, "refit_on_validation": True}
    (tmp_path / "tiny.toml").write_text(to_toml(transit_fields))
    (tmp_path / "program.py").write_text(_PROGRAM)
    command = [sys.executable, "program.py", "fit", "tiny.toml", "--no-progress"]
    ended = subprocess.run(
        [*command, "--devices", "2", "--accelerator", "cpu"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "LOCAL_RANK"} | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    runs = tmp_path / "runs" / "transit-ridership"
    assert [run.name for run in runs.iterdir()] == ["001"]
    assert (runs / "001" / "weights.pt").exists()
    said = ended.stdout.splitlines()
    assert said.count("exported 001") == 1
    assert len([line for line in said if line.startswith("transit-ridership")]) == 1
    steps = [line.split()[1:] for line in said if line.startswith("steps")]
    assert len(steps) == 2, (ended.stdout, ended.stderr)  # search and refit
    assert all(planned == made for planned, made in steps)
