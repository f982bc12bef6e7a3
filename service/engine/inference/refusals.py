"""What a worker answers to work that it did not do, or that came to nothing."""

from service.engine.models.loaded_model import LoadedModel
from service.errors import DeadlineError, ModelFailedError, NotFiniteError
from service.wordings import case


def too_late() -> DeadlineError:
    """To work whose time was up before it began."""
    return DeadlineError(
        "the request waited longer than its deadline; nothing was applied: try again",
        retry_after_s=1,
    )


def model_failed(model: LoadedModel, error: Exception | None) -> ModelFailedError:
    """To the rows of a batch that raised."""
    problem = ModelFailedError(
        f"model {model.name!r} version {model.version} failed on this input"
        f" ({type(error).__name__}); nothing was applied"
    )
    problem.__cause__ = error
    return problem


def not_finite(model: LoadedModel) -> NotFiniteError:
    """To a row whose outputs or new state hold infinity or NaN."""
    return NotFiniteError(case("not-finite", model=model.name, version=model.version))
