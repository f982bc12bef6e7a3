"""Errors of training. Each message says what was looked at, what was expected, got, and the remedy.

The command line prints them as one line; everything else is a bug and keeps its traceback.
"""


class TrainingError(Exception):
    """Base of everything that `training` raises on purpose."""

    code = "training"


class RecipeError(TrainingError):
    """A recipe that cannot be read or does not fit together."""

    code = "recipe-invalid"


class OptionError(TrainingError):
    """An option of the command line that this machine cannot follow."""

    code = "option-invalid"


class DataError(TrainingError):
    """A data file that is missing or does not look like what the recipe needs."""

    code = "data-invalid"


class RunError(TrainingError):
    """A run that is missing, unfinished, of another recipe, or whose loss went astray."""

    code = "run-invalid"


class VerificationError(TrainingError):
    """An exported graph that does not compute what the trained network computes."""

    code = "export-unfaithful"


class VersionTakenError(TrainingError):
    """Another bundle has the name and version that one would be written under."""

    code = "version-taken"


def missing_package(error: ModuleNotFoundError) -> str:
    """What to install, for the command line; a module of this project that is missing is a bug."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "service", "training"):
        raise error
    return (
        f"carry-train: the package {package!r} is not installed: expected what trains models"
        ' beside this one; run pip install "carry-serving[training]"'
    )
