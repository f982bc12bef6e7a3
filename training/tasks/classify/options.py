"""The `[task]` table of a recipe that classifies texts."""

from typing import Literal

from pydantic import Field

from training.config import Section
from training.tasks.classify.ngram_bag import MAX_ORDER


class ClassifyOptions(Section):
    """Shares are of all texts for the parts, and probabilities for the dropouts."""

    kind: Literal["classify"]
    held_out_share: float = Field(gt=0, lt=0.9)
    validation_share: float = Field(gt=0, lt=0.5)
    vocabulary_size: int = Field(ge=300, le=100_000)
    embedding_size: int = Field(ge=1, le=1024)
    ngram_order: int = Field(ge=2, le=MAX_ORDER)
    """Longest run of tokens that has a vector of its own."""
    ngram_buckets: int = Field(ge=1000, le=4_000_000)
    ngram_size: int = Field(ge=1, le=256)
    head_size: int = Field(default=64, ge=1, le=4096)
    max_train_tokens: int = Field(ge=16)
    """Longer texts lose their middle in training; when served, texts have no such limit."""
    token_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Tokens read as unknown."""
    embedding_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Features of the embedding switched off for a whole text."""
    ngram_dropout: float = Field(default=0.0, ge=0, lt=1)
    head_dropout: float = Field(default=0.0, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each label given to all; calibration takes back the doubt that this teaches."""
    prefix_weight: float = Field(default=0.0, ge=0)
    """Weight of the loss after a random prefix, beside 1 for that of the whole text."""
    baseline: Literal["words 1-2", "characters 1-3"]
    """The n-grams of the TF-IDF logistic regression that the card compares with."""
