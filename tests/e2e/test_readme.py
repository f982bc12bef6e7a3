"""What the README shows is what a reader gets."""

import json

import pytest

from service.settings import PREFIX, Settings
from tests.e2e.readme_tour import README, run_stop, tour_stops
from tests.e2e.server import running_server


def shape_of(value):
    """Keys, lengths and kinds of a JSON value; its figures and texts do not count."""
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape_of(item) for item in value]
    return "number" if isinstance(value, int | float) else type(value).__name__


def test_the_tour_gives_what_it_shows(tmp_path):
    stops = tour_stops(README.read_text(encoding="utf-8"))
    assert len(stops) >= 6
    with running_server(tmp_path, store=f"sqlite:///{tmp_path}/carry.db") as server:
        for command, printed in stops:
            assert shape_of(run_stop(command, server.url)) == shape_of(json.loads(printed)), command


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_listed_with_its_default(name):
    default = Settings.model_fields[name].default
    shown = f"{default:.15g}" if isinstance(default, float) else default
    assert f"| `{(PREFIX + name).upper()}` | `{shown}` |" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("word", ["make serve", "make test"])
def test_the_two_commands_are_named(word):
    assert word in README.read_text(encoding="utf-8")
