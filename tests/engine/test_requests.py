"""Requests share a digest only if one may be answered with the reply to the other."""

import numpy as np
import pytest

from service.engine.session.requests import Observations
from tests.engine.support import create_load, create_mood, rows, step_rows, step_text

ROW = np.array([[1.0, 2.0]], np.float32)


def test_a_repeated_request_has_the_same_digest():
    assert step_rows(rows(3), 0).digest == step_rows(rows(3), 0).digest
    assert step_text("a", 0).digest == step_text("a", 0).digest
    assert create_load(rows(3)).digest == create_load(rows(3)).digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (step_rows(ROW, 0), step_rows(ROW, 0, emit="all")),
        (step_rows(ROW, 0), step_rows(ROW.T, 0)),
        (step_rows(ROW, 0), step_rows(ROW + 1, 0)),
        (step_text("a", 0), step_text("a", 0, final=True)),
        (step_text("a", 0), step_text("b", 0)),
    ],
    ids=["emit", "shape", "values", "final", "text"],
)
def test_steps_that_ask_for_different_things_differ(one, other):
    assert one.digest != other.digest


@pytest.mark.parametrize(
    "other",
    [
        create_load(ring_size=2),
        create_load(metadata={"place": "Clark/Lake"}),
        create_load(ttl_s=61),
        create_load(start_s=86_400),
        create_load(rows(1)),
        create_mood(start_s=0),
    ],
    ids=["ring_size", "metadata", "ttl_s", "start_s", "history", "model"],
)
def test_creations_that_ask_for_different_things_differ(other):
    assert create_load().digest != other.digest


def test_the_order_of_keys_in_metadata_does_not_matter():
    one = create_load(metadata={"a": 1, "b": {"c": 2, "d": 3}})
    other = create_load(metadata={"b": {"d": 3, "c": 2}, "a": 1})
    assert one.digest == other.digest


def test_resuming_asks_for_the_same_session_as_creating():
    assert create_load().digest == create_load(resumes=True).digest


def test_parts_of_a_digest_cannot_flow_into_each_other():
    assert Observations(text="a").described() != Observations(text="a\x00").described()
    assert step_text("last", 0).digest != step_text("", 0).digest
