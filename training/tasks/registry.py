"""Finds the task of a recipe and checks its `[task]` table."""

import importlib
from typing import Final

from training.config import Recipe, parse_section
from training.errors import RecipeError
from training.tasks.base import Task

TASKS: Final = {
    "forecast": "training.tasks.forecast.task",
    "classify": "training.tasks.classify.task",
    "generate": "training.tasks.generate.task",
    "tag": "training.tasks.tag.task",
    "translate": "training.tasks.translate.task",
    "caption": "training.tasks.caption.task",
}
"""`task.kind` → the module whose `TASK` it is; imported only when a recipe asks for it."""


def make_task(recipe: Recipe, data_path: str | None, where: str = "recipe") -> Task:
    """Bind a recipe to its task and data.

    Raises:
        RecipeError: an unknown kind, or a `[task]` table that does not fit it.
        DataError: the data are missing or not what the recipe needs.
    """
    if recipe.kind not in TASKS:
        raise RecipeError(
            f"{where}: task.kind is {recipe.task.get('kind')!r}; expected one of {', '.join(TASKS)}"
        )
    task: type[Task] = importlib.import_module(TASKS[recipe.kind]).TASK
    options = parse_section(task.Options, recipe.task, f"{where}, [task]")
    return task(recipe, options, data_path)
