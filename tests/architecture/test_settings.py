"""Settings stay few, and one that was removed is refused with what applies instead."""

import re

import pytest

from service.api import limits
from service.errors import StartUpError
from service.settings import PREFIX, REMOVED, Settings, load_settings

NAMES = {(PREFIX + name).upper() for name in Settings.model_fields}


def test_there_are_at_most_35_settings():
    assert len(NAMES) <= 35


@pytest.mark.parametrize("name", ["CARRY_MAX_ROWS", "carry_max_waiting_jobs"])
def test_a_removed_setting_stops_the_start_with_what_applies_instead(name, monkeypatch):
    monkeypatch.setenv(name, "5")
    with pytest.raises(StartUpError) as refused:
        load_settings()
    assert str(refused.value) == f"setting {name} was removed: unset it; {REMOVED[name.upper()]}"


def test_what_applies_instead_of_a_removed_setting_exists():
    for name, instead in REMOVED.items():
        assert name not in NAMES
        assert set(re.findall(r"CARRY_\w+", instead)) <= NAMES


def test_the_bounds_named_in_place_of_removed_settings_are_those_of_the_code():
    for name, bound in vars(limits).items():
        if name.isupper() and name != "MAX_REPLY_BYTES":
            assert str(bound) in REMOVED[PREFIX + name]
