"""Recipes: what is refused, and that the message names the key, the value and the file."""

from pathlib import Path
from typing import Any

import pytest

from training.config import load_recipe, parse_recipe
from training.errors import RecipeError
from training.tasks.registry import make_task

RECIPES = sorted((Path(__file__).parents[2] / "training" / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_committed_recipes_are_valid_and_named_after_their_model(path: Path) -> None:
    assert load_recipe(path).name == path.stem


def change(fields: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *sections, last = key.split(".")
    table = fields
    for section in sections:
        table = table[section]
    if value is None:
        del table[last]
    else:
        table[last] = value
    return fields


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("fit.learning_rat", 0.1, r"fit.learning_rat: Extra inputs"),
        ("fit.learning_rate", -1, r"fit.learning_rate: .*greater than 0 \(got -1\)"),
        ("fit.schedule", "cosine", r"leave out patience"),
        ("cell", None, r"cell: Field required"),
        ("name", "Transit Ridership", r"name: .*pattern"),
        ("seed", "seven", r"seed: .*\(got 'seven'\)"),
        ("task.kind", "paint", r"task.kind is 'paint'; expected one of forecast"),
        ("task.horizn", 3, r"\[task\]: horizn: Extra inputs"),
        ("task.window", 9, r"window 9 is shorter than two seasons of 7"),
        ("task.quantiles", [0.9, 0.5, 0.1], r"rise strictly"),
        ("task.quantiles", [0.1, 0.9], r"the median, 0.5"),
        ("task.frequency", "daily", r"expected a duration such as 'P1D'"),
        ("task.covariates", ["ridership"], r"listed among the covariates too"),
        ("data.source", "madrid", r"data.source is 'madrid'; expected one of"),
    ],
)
def test_a_recipe_that_does_not_fit_says_why(
    transit_fields: dict[str, Any], key: str, value: Any, says: str
) -> None:
    with pytest.raises(RecipeError, match=says):
        make_task(parse_recipe(change(transit_fields, key, value), "r.toml"), None, "r.toml")


def test_an_unknown_cell_is_a_recipe_error(transit_fields: dict[str, Any]) -> None:
    recipe = parse_recipe(change(transit_fields, "cell.kind", "gruu"), "r.toml")
    with pytest.raises(RecipeError, match=r"cell.kind is 'gruu'; expected one of .*gru, irnn"):
        make_task(recipe, None).network()


def test_files_that_are_no_recipes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    with pytest.raises(RecipeError, match=r"cannot be read"):
        load_recipe(path)
    path.write_text("name = ")
    with pytest.raises(RecipeError, match=r"r.toml: not valid TOML"):
        load_recipe(path)
