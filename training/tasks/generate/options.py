"""The `[task]` table of a model that writes."""

from typing import Literal

from pydantic import Field

from training.config import Section


class GenerateOptions(Section):
    """How the text is divided and read."""

    kind: Literal["generate"]
    characters: str | None = None
    """The alphabet in this order; None: the characters of the text, sorted."""
    start: str = "\n"
    """Read where a text has no beginning of its own."""
    end: str | None = None
    """Writing ends behind it."""
    held_out_share: float = Field(ge=0, lt=1)
    """The tail that the card reports on. 0: the model is judged on the text that it learnt."""
    validation_share: float = Field(ge=0, lt=1)
    """Of the whole text, before that tail. 0: what stops the training is the training text."""
    sequence_steps: int = Field(ge=1)
    """Characters of a training sequence."""
    embedding_size: int | None = Field(default=None, ge=1)
    """None: characters are read as one-hot vectors."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """On what the head reads."""
    ngram_order: int = Field(ge=1, le=12)
    """Characters of the longest n-gram of the baseline."""
