"""The `[task]` table of a recipe that labels every row of a series."""

from typing import Annotated, Literal

from pydantic import Field

from training.config import Section


class TagOptions(Section):
    """Which rows are read, what their labels are, and how both are divided."""

    kind: Literal["tag"]
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    frequency: Annotated[str, Field(pattern=r"^P[1-9][0-9]*D$")] = "P1D"
    """Days from one row to the next: the labels are those of days."""
    holidays: str = "US"
    """A country of the holidays package; its holidays are labelled as Sundays are."""
    held_out_share: float = Field(gt=0, lt=0.9)
    """The tail that the card reports on."""
    validation_share: float = Field(gt=0, lt=0.5)
    """Of all rows, before that tail."""
    sequence_steps: int = Field(ge=2)
    """Rows of a training sequence."""
    stride: int = Field(ge=1)
    """Rows from the start of one training sequence to that of the next."""
    missing_share: float = Field(default=0.0, ge=0, lt=1)
    """Cells hidden in training, so that a row may come without its values."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """On what the head reads."""
    baseline_values: int = Field(ge=1)
    """Newest rows that the logistic regression of the card reads."""

    @property
    def frequency_s(self) -> int:
        return 86_400 * int(self.frequency[1:-1])
