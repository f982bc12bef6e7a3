"""The committed tagger: what its card says is measured again, without the evaluation's code."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from service.contract.bundle import Bundle, read_bundle
from service.contract.golden import check_golden
from service.engine.models.registry import load_registry
from service.engine.session.requests import CreateRequest, Observations, StepRequest
from service.stores.record.record import Key
from tests.engine.support import running_engine
from training.config import load_recipe, parse_recipe
from training.data.sets.chicago import DATASET
from training.data.sets.day_kinds import DAY_KINDS, day_kinds
from training.evaluate.served_model import ServedModel, make_run

ROOT = Path(__file__).parents[2]
HELD_OUT = 1139


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle(ROOT / "models" / "day-kinds" / "1")


@pytest.fixture(scope="module")
def series():
    return DATASET.load(DATASET.locate(None), "ridership", [], 86_400)


@pytest.fixture(scope="module")
def truth(series) -> np.ndarray:
    return day_kinds(series.time_s, "US")


def right(bundle: Bundle, values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Which held-out days it labels rightly, read as one stream from the first day on."""
    model = ServedModel.from_bundle(bundle)
    outputs, _ = model.answer({"x": values[None]}, np.array([len(values)]))
    return (outputs["probabilities"][0].argmax(axis=1) == truth)[-HELD_OUT:]


def figure(bundle: Bundle, metric: str, baseline: str):
    [found] = [f for f in bundle.manifest.quality if (f.metric, f.baseline) == (metric, baseline)]
    return found


def test_it_was_made_by_its_recipe_is_small_and_reproduces_its_golden_run(bundle: Bundle) -> None:
    check_golden(bundle, make_run(bundle.graph))
    recipe = load_recipe(ROOT / "training" / "recipes" / "day-kinds.toml")
    assert parse_recipe(bundle.manifest.training.recipe, "manifest") == recipe
    assert sum(file.stat().st_size for file in (ROOT / "models/day-kinds/1").iterdir()) < 2**20
    assert [spec.role for spec in bundle.manifest.graph.inputs] == ["x", "length"]  # no dates


def test_on_days_that_it_never_saw_it_beats_both_rivals(bundle, series, truth) -> None:
    accuracy = right(bundle, series.values, truth).mean()
    known = truth[:-HELD_OUT]
    commonest = (truth[-HELD_OUT:] == np.bincount(known).argmax()).mean()
    x = np.lib.stride_tricks.sliding_window_view(series.values[:, 0], 7)
    x = (np.nan_to_num(x, nan=float(np.nanmean(x))) - np.nanmean(x)) / np.nanstd(x)
    fitted = LogisticRegression(max_iter=2000).fit(x[:-HELD_OUT], known[6:])
    regression = fitted.score(x[-HELD_OUT:], truth[-HELD_OUT:])
    assert accuracy > regression > commonest
    name = "logistic regression on the last 7 values"
    assert figure(bundle, "accuracy", name).value == pytest.approx(accuracy, abs=1e-3)
    assert figure(bundle, "accuracy", name).baseline_value == pytest.approx(regression, abs=5e-3)
    written = figure(bundle, "accuracy", "the commonest label").baseline_value
    assert written == pytest.approx(commonest, abs=1e-3)


def test_a_day_without_a_value_is_told_from_the_days_before(bundle, series, truth) -> None:
    hidden = np.arange(len(truth)) % 5 == 0
    values = np.where(hidden[:, None], np.float32(np.nan), series.values)
    asked = hidden[-HELD_OUT:]
    share = right(bundle, values, truth)[asked].mean()
    assert share > 0.95
    page = (ROOT / "training" / "SYSTEMS.md").read_text(encoding="utf-8")
    assert f"of days without a value {100 * share:.1f} and" in page


def test_the_page_and_the_readme_say_what_was_measured(bundle: Bundle) -> None:
    found = figure(bundle, "accuracy", "logistic regression on the last 7 values")
    mine, rival = f"{100 * found.value:.1f} %", f"{100 * found.baseline_value:.1f} %"
    page = (ROOT / "training" / "SYSTEMS.md").read_text(encoding="utf-8")
    assert f"rightly: {mine}, {rival} by a logistic regression on the last 7 values" in page
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{mine} right, a logistic regression {rival}" in readme


def test_a_session_is_told_every_day_of_a_week_as_it_comes(series, truth) -> None:
    registry = load_registry(ROOT / "models", "cpu", 1)
    model = registry.get("day-kinds")

    async def stream():
        async with running_engine(registry=registry) as engine:
            key = Key("t", "station")
            await engine.submit(key, CreateRequest("day-kinds", None, ttl_s=60))
            past = Observations(rows=series.values[-63:-7])
            reply = await engine.submit(key, StepRequest(past, 0))
            said = []
            for day in series.values[-7:]:
                reply = await engine.submit(
                    key, StepRequest(Observations(rows=day[None]), reply.step)
                )
                shares = model.runner.outputs.unpack(reply.outputs)["probabilities"]
                said.append(DAY_KINDS[int(shares[-1].argmax())])
        return said

    assert asyncio.run(stream()) == [DAY_KINDS[kind] for kind in truth[-7:]]
