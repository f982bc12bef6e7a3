"""Predictions as tables of pandas or polars."""

import importlib

import pytest

from service.client import ClientError, StepReply, tables, to_frame

FORECAST = {
    "start": "2016-08-29T00:00:00Z",
    "frequency": "P1D",
    "mean": [1.0, 2.0],
    "quantiles": {"0.1": [0.5, 1.5], "0.9": [1.5, 2.5]},
}
CLASS = {"label": "b", "probabilities": {"a": 0.25, "b": 0.75}}
TAGS = {"labels": ["b", "a"], "probabilities": [{"a": 0.25, "b": 0.75}, {"a": 0.5, "b": 0.5}]}


@pytest.fixture(params=["pandas", "polars"])
def records(request, monkeypatch):
    """Rows of a frame of one library, where the other is not installed."""
    pytest.importorskip(request.param)
    imported = importlib.import_module

    def only(name):
        if name != request.param:
            raise ImportError(name)
        return imported(name)

    monkeypatch.setattr(tables.importlib, "import_module", only)
    if request.param == "pandas":
        return lambda frame: frame.to_dict(orient="records")
    return lambda frame: frame.to_dicts()


def test_a_forecast_has_a_row_for_each_time_ahead(records):
    first, second = records(to_frame(FORECAST))
    assert str(second.pop("time")).startswith("2016-08-30 00:00:00")
    assert second == {"ahead": 2, "mean": 2.0, "0.1": 1.5, "0.9": 2.5}
    assert first["ahead"] == 1
    assert "time" not in records(to_frame(FORECAST | {"start": None}))[0]


def test_classes_and_tags_have_a_column_each(records):
    assert records(to_frame(CLASS)) == [{"label": "b", "a": 0.25, "b": 0.75}]
    assert records(to_frame(TAGS))[1] == {"row": 1, "label": "a", "a": 0.5, "b": 0.5}


def test_predictions_are_numbered_and_those_of_a_reply_by_their_steps(records):
    assert [row["prediction"] for row in records(to_frame([CLASS, TAGS]))] == [0, 1, 1]
    reply = StepReply(7, None, [FORECAST, FORECAST], is_replayed=False)
    assert [row["step"] for row in records(reply.to_frame())] == [6, 6, 7, 7]
    last = StepReply(7, CLASS, None, is_replayed=False)
    assert records(last.to_frame()) == [{"step": 7, "label": "b", "a": 0.25, "b": 0.75}]


def test_other_predictions_are_one_row_of_their_values(records):
    written = {"text": "hello", "next": "o", "probabilities": {"o": 0.9}}
    assert records(to_frame(written)) == [{"text": "hello", "next": "o", "o": 0.9}]
    assert records(to_frame({"tensors": {"x": [1.0]}}))[0]["x"] in ([1.0], 1.0)


def test_without_either_library_the_error_says_what_to_install(monkeypatch):
    def none(name):
        raise ImportError(name)

    monkeypatch.setattr(tables.importlib, "import_module", none)
    with pytest.raises(ClientError, match="pip install"):
        to_frame(CLASS)
