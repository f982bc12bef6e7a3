"""The `[task]` table of a forecast recipe."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from training.config import Section

_UNITS_S = {"M": 60, "H": 3600, "D": 86_400, "W": 604_800, "S": 1}


class ForecastOptions(Section):
    """What is forecast, from what, how far, and how the rows are split."""

    kind: Literal["forecast"]
    target: str
    covariates: tuple[str, ...] = ()
    frequency: str
    """ISO 8601 duration between rows, such as P1D or PT1H."""
    horizon: int = Field(ge=1, le=1024)
    season: int = Field(ge=1)
    """Rows in one season: 7 for days with a weekly rhythm."""
    window: int = Field(ge=2, le=4096)
    """Rows of the target kept in the state: several seasons."""
    quantiles: tuple[float, ...]
    holidays: str | None = None
    """Country code of the holidays package."""
    constant_baseline: float | None = None
    """Also compare with always forecasting this: 0 for returns, which says that a price stays."""
    decoder_size: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    mean_weight: float = Field(default=0.1, ge=0)
    train_steps: int = Field(default=128, ge=1)
    """Rows of a training sequence behind its first window."""
    stride: int = Field(default=5, ge=1)
    """Rows between the starts of training sequences."""
    min_context: int = Field(default=14, ge=1)
    """Rows a session must have fed before its forecasts count in the loss."""
    missing_share: float = Field(default=0.0, ge=0, lt=1)
    """Of the cells that training hides, so that real gaps are nothing new."""
    validation_share: float = Field(default=0.12, gt=0, lt=0.5)
    test_share: float = Field(default=0.2, gt=0, lt=0.5)

    @property
    def frequency_s(self) -> int:
        number, unit = re.findall(r"([0-9]+)([DHMSW])", self.frequency)[0]
        return int(number) * _UNITS_S[unit]

    @field_validator("frequency")
    @classmethod
    def _readable(cls, value: str) -> str:
        if not re.fullmatch(r"P(T[1-9][0-9]*[HMS]|[1-9][0-9]*[DW])", value):
            raise ValueError("expected a duration such as 'P1D', 'P1W', 'PT1H' or 'PT15M'")
        return value

    @field_validator("quantiles")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)) or not value or not 0 < value[0] <= value[-1] < 1:
            raise ValueError("expected levels between 0 and 1 that rise strictly")
        if 0.5 not in value:
            raise ValueError("expected the median, 0.5, among the levels")
        return value

    @model_validator(mode="after")
    def _window_holds_two_seasons(self) -> Self:
        if self.window < 2 * self.season:
            raise ValueError(
                f"window {self.window} is shorter than two seasons of {self.season} rows"
            )
        if self.target in self.covariates:
            raise ValueError(f"target {self.target!r} is listed among the covariates too")
        return self
