"""The stock model that is shipped says of itself what it is worth: hardly anything as a point."""

from pathlib import Path

import pytest

from service.contract.bundle import Bundle, read_bundle
from service.contract.golden import check_golden
from training.config import load_recipe, parse_recipe
from training.evaluate.served_model import make_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle(ROOT / "models" / "stock-returns" / "1")


def test_it_reproduces_its_golden_run_and_comes_from_the_committed_recipe(bundle: Bundle) -> None:
    check_golden(bundle, make_run(bundle.graph))
    recipe = load_recipe(ROOT / "training" / "recipes" / "stock-returns.toml")
    assert parse_recipe(bundle.manifest.training.recipe, "manifest") == recipe
    assert bundle.manifest.training.data[0].licence == "MIT"


def test_its_card_compares_it_with_persistence_of_returns_and_of_the_price(bundle: Bundle) -> None:
    figures = {f.baseline: f for f in bundle.manifest.quality if f.metric == "MASE"}
    assert {"always 0", "persistence", "seasonal naive", "AutoETS"} <= figures.keys()
    mine, nothing = figures["always 0"].value, figures["always 0"].baseline_value
    assert nothing is not None
    card = bundle.files["CARD.md"].decode()
    word = "below" if mine < nothing else "above"
    assert f"Against always forecasting 0 it lies {abs(1 - mine / nothing):.1%} {word}" in card
