"""The `[task]` table of a model that writes about vectors."""

from typing import Literal

from pydantic import Field

from training.config import Section
from training.tasks.translate.options import Character


class CaptionOptions(Section):
    """How vectors and the texts about them are read."""

    kind: Literal["caption"]
    end: Character = "\n"
    """Behind what is written; read in front of it, too."""
    validation_share: float = Field(gt=0, lt=0.5)
    """Of the vectors that are not held out: the last of them."""
    embedding_size: int = Field(ge=1)
    """Of characters, and of what a vector becomes."""
    reader_size: int = Field(ge=1)
    """Units between a vector and that."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """On what the head reads, and between a vector and what it becomes."""
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation of what is added to the values of a vector in training."""
