"""Bodies of `POST /v1/timeseries/forecast`, as KServe's time-series protocol has them.

Unknown fields are passed over, as the protocol asks. A null in a series is a missing value: ours.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Tag

from service.api.codec.fields import ListedRow, Number, Text, Time

SeriesType = Literal["univariate_time_series", "multivariate_time_series"]
Series = Annotated[
    Annotated[list[Number | None], Tag("values")] | Annotated[list[ListedRow], Tag("rows")],
    Field(union_mode="left_to_right"),
]
Frequency = Literal[
    "S", "T", "H", "D", "W", "M", "Q", "Y",
    "second", "minute", "hour", "day", "week", "month", "quarter", "year",
    "SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "QUARTER", "YEAR",
]  # fmt: skip


class _Open(BaseModel):
    model_config = ConfigDict(extra="ignore")


class TimeSeriesInput(_Open):
    type: SeriesType
    name: Text = Field(description="Each once in a request.")
    series: Series = Field(
        description="Values of the column that the model forecasts; or rows of all its columns, in"
        " the order of `GET /v1/models/{model}`, where the type is multivariate."
    )
    frequency: Frequency = Field(description="That of the model.")
    start_timestamp: Time | None = Field(
        default=None,
        description="Time of the first value; models that use the time of a row need it.",
    )


class ForecastOptions(_Open):
    horizon: int = Field(ge=1, description="At most the model's.")
    quantiles: list[float] | None = Field(
        default=None, description="Levels that the model answers; none where absent."
    )


class TimeSeriesRequest(_Open):
    model: Text = Field(description="Its default version answers.")
    inputs: list[TimeSeriesInput] = Field(min_length=1)
    options: ForecastOptions
    metadata: dict[str, Any] | None = Field(default=None, description="Passed over.")


class TimeSeriesForecast(BaseModel):
    type: SeriesType = Field(description="Univariate: a model forecasts one column.")
    name: str
    mean_forecast: list[float]
    frequency: str = Field(description="As it was written in the request.")
    start_timestamp: str | None = Field(description="Null where the input had none.")
    quantiles: dict[str, list[float]] | None


class ForecastOutput(BaseModel):
    type: Literal["time_series_forecast"]
    id: str
    status: Literal["completed"]
    content: list[TimeSeriesForecast]
    error: None


class TimeSeriesAnswer(BaseModel):
    id: str
    created_at: int = Field(description="Seconds since 1970.")
    status: Literal["completed"]
    error: None
    model: str
    outputs: list[ForecastOutput] = Field(description="In the order of `inputs`.")
    usage: None = Field(description="No tokens are counted.")


class TimeSeriesError(BaseModel):
    """As the protocol says it."""

    code: str
    message: str
    param: str | None
    type: str
