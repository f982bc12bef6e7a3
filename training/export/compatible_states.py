"""Which earlier graphs a recipe says its states mean the same to, by what lies in `models`."""

from pathlib import Path

from service.contract.bundle import read_bundle
from service.contract.errors import ContractError
from training.config import Recipe
from training.errors import RecipeError


def compatible_states(models: Path, recipe: Recipe) -> tuple[str, ...]:
    """SHA-256 of the graphs of the versions that `compatible_with` names.

    Raises:
        RecipeError: one of them is not there, or is damaged.
    """
    graphs = []
    for version in recipe.compatible_with:
        folder = models / recipe.name / version
        try:
            manifest = read_bundle(folder).manifest
        except (OSError, ContractError) as error:
            raise RecipeError(
                f"compatible_with names version {version}: expected a bundle in {folder}, got"
                f" {error}; leave the version out, or put the bundle there"
            ) from None
        graphs.append(manifest.files[manifest.graph.file])
    return tuple(graphs)
