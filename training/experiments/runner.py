"""Runs the jobs of an experiment and keeps what they found.

`<out>/<folder>/results.json` holds every finished job whose method and settings still are what the
experiment says, whichever seeds a call asks for. `README.md` and the pictures are written anew at
the end of every call, from the results of the seeds that it asked for.
"""

import json
import time
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from training.errors import DataError
from training.experiments.experiment import (
    DATA_SETTING,
    Experiment,
    Job,
    Outcome,
    Result,
    Tell,
)
from training.experiments.report import write_report

RESULTS_FILE = "results.json"
_RESULTS = TypeAdapter(list[Result])


def run_experiment(
    experiment: Experiment,
    out: Path,
    num_seeds: int,
    command: str,
    tell: Tell,
    *,
    num_workers: int = 1,
    max_minutes: float | None = None,
) -> tuple[Path, int]:
    """Run what is missing, write the report; the folder, and how many jobs are left.

    After `max_minutes` no further job is started: calling again goes on from there.
    """
    folder = out / experiment.folder
    folder.mkdir(parents=True, exist_ok=True)
    wanted = experiment.jobs(num_seeds)
    results = _still_valid(read_results(folder), wanted)
    missing = [job for job in wanted if not _find(results, [job])]
    for job, outcome in _outcomes(experiment, missing, num_workers, max_minutes):
        results.append(
            Result(method=job.method, seed=job.seed, settings=job.settings, outcome=outcome)
        )
        _write_results(folder, results)
        tell(f"{job.method}, seed {job.seed}: {_say(outcome)}")
    reported = _find(results, wanted)
    if reported:
        write_report(experiment, reported, folder, command)
    return folder, len(wanted) - len(reported)


def read_results(folder: Path) -> list[Result]:
    """Raises DataError for a file that this program did not write."""
    file = folder / RESULTS_FILE
    if not file.exists():
        return []
    try:
        return _RESULTS.validate_json(file.read_bytes())
    except ValidationError as error:
        raise DataError(
            f"{file}: not results of an experiment ({error.error_count()} problems); move it away"
            " or name another --out"
        ) from None


def _outcomes(
    experiment: Experiment, jobs: list[Job], num_workers: int, max_minutes: float | None
) -> Iterable[tuple[Job, Outcome]]:
    """Job after job, or in processes of their own; ends when the time is up."""
    ends_at = time.monotonic() + 60 * max_minutes if max_minutes is not None else float("inf")
    if num_workers == 1:
        for job in jobs:
            if time.monotonic() >= ends_at:
                return
            yield job, run_alone(experiment, job)
        return
    # Spawned, not forked: torch's threads do not survive a fork.
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        waiting = list(jobs)
        running: dict[Future[Outcome], Job] = {}
        while waiting or running:
            while waiting and len(running) < num_workers and time.monotonic() < ends_at:
                job = waiting.pop(0)
                running[pool.submit(run_alone, experiment, job)] = job
            if not running:
                return
            done = next(as_completed(running))
            yield running.pop(done), done.result()


def run_alone(experiment: Experiment, job: Job) -> Outcome:
    """One job, on one thread, whatever ran before it in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    return experiment.run(job)


def _still_valid(results: list[Result], wanted: list[Job]) -> list[Result]:
    return [result for result in results if any(_is_like(result, job) for job in wanted)]


def _find(results: list[Result], jobs: list[Job]) -> list[Result]:
    return [
        result
        for result in results
        if any(result.seed == job.seed and _is_like(result, job) for job in jobs)
    ]


def _is_like(result: Result, job: Job) -> bool:
    """The same but for the seed. A result that does not say its data is taken as of any."""
    settings = {
        name: value
        for name, value in job.settings.items()
        if name != DATA_SETTING or name in result.settings
    }
    return (result.method, result.settings) == (job.method, settings)


def _write_results(folder: Path, results: list[Result]) -> None:
    lines = [json.dumps(result.model_dump(mode="json")) for result in results]
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    (folder / RESULTS_FILE).write_text(text, encoding="utf-8")


def _say(outcome: Outcome) -> str:
    figure = "diverged" if outcome.figure is None else f"{outcome.figure:.4g}"
    return f"{figure} after {outcome.num_updates} updates, {outcome.seconds:.0f} s"
