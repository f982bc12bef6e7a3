"""How answers are written, to the byte."""

import math
from datetime import UTC, datetime

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.api.codec.encode import ForecastOptions, encode_prediction, rfc3339
from service.api.codec.schemas import StepBody
from service.api.codec.validation import parse_body
from service.errors import CarryError
from tests.engine.support import small_models

FORECASTER = small_models().get("load")
LEVELS = list(FORECASTER.manifest.forecast.quantiles)
HORIZON = FORECASTER.manifest.forecast.horizon


@given(st.floats(-2e9, 2.5e11) | st.integers(-2_000_000_000, 253_402_300_799))
@example(1.9996)
@example(1.9999999)
@example(math.nextafter(2, 1))
@example(-0.0005)
def test_times_are_written_as_datetime_writes_them(time_s):
    text = datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")
    assert rfc3339(time_s) == text.replace(".000+00:00", "Z").replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (b'{"a": "x"}', "body.observations[0].a: Input should be a valid number, got 'x'; "),
        (b'[1, "x"]', "body.observations[0][1]: Input should be a valid number, got 'x'; "),
        (b'{"list": []}', "body.observations[0]: Input should be a valid number; "),
        (b"5", "body.observations[0]: Input should be an object, got 5; "),
        (b"5, 6, [[]]", "body.observations[0]: Input should be an object, got 5 (and 2 more); "),
    ],
)
def test_a_bad_row_is_told_once_and_as_what_it_is(row, told):
    with pytest.raises(CarryError) as caught:
        parse_body(StepBody, b'{"observations": [%s]}' % row)
    assert caught.value.detail == told + "/docs shows what is expected"


@given(
    values=st.data(),
    levels=st.none() | st.lists(st.sampled_from(LEVELS), unique=True),
    horizon=st.none() | st.integers(1, HORIZON),
    start_s=st.none() | st.integers(0, 2_000_000_000),
)
def test_a_forecast_is_written_at_once_as_its_parts_would_be(values, levels, horizon, start_s):
    layout = FORECASTER.runner.outputs
    numbers = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1e-45, 3.4e38])
    count = layout.step_bytes // 4
    packed = np.array(
        values.draw(st.lists(numbers, min_size=count, max_size=count)), np.float32
    ).tobytes()
    options = ForecastOptions.of(FORECASTER, levels, horizon)
    parts = encode_prediction(FORECASTER, layout.unpack(packed), 0, 3, start_s, options)
    at_once = options.json.write(packed, parts["start"])
    assert orjson.dumps(at_once) == orjson.dumps(parts, option=orjson.OPT_SERIALIZE_NUMPY)


def test_a_model_that_is_no_forecaster_has_nothing_to_write_at_once():
    assert ForecastOptions.of(small_models().get("mood"), None, None).json is None
