"""The `[task]` table of an encoder and decoder."""

from typing import Annotated, Literal

from pydantic import Field

from training.config import Section

Character = Annotated[str, Field(min_length=1, max_length=1)]


class TranslateOptions(Section):
    """How pairs of texts are read and written. Both marks must be in none of them."""

    kind: Literal["translate"]
    mark: Character = "="
    """Behind what is read: from here on it writes."""
    end: Character = "\n"
    """Behind what is written: everything is as at the start again."""
    embedding_size: int = Field(ge=1)
    memory_steps: int = Field(ge=1, le=4096)
    """States of the encoder that are attended to; none of the texts may be longer."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """On characters, and on what the head reads."""
