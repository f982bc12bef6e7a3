"""Tagging: labels of days, divided by time, learnt from values alone."""

import datetime as dt

import numpy as np
import pytest
import torch

from training.config import parse_recipe
from training.data.sets.day_kinds import DAY_KINDS, day_kinds
from training.errors import DataError, RecipeError
from training.evaluate.tagging import _regression
from training.fit.truncated import truncated_losses
from training.tasks.registry import make_task
from training.tasks.tag.task import Stretches, TaggedRows

TASK = {
    "kind": "tag",
    "columns": ["ridership", "temp_max"],
    "held_out_share": 0.2,
    "validation_share": 0.1,
    "sequence_steps": 28,
    "stride": 7,
    "missing_share": 0.5,
    "baseline_values": 7,
}


def tiny_task(source="chicago", task=None, **fit_fields):
    fields = {
        "name": "tiny-tagger",
        "version": "1",
        "title": "Tiny tagger",
        "description": "For tests.",
        "seed": 3,
        "data": {"source": source},
        "task": TASK | (task or {}),
        "cell": {"kind": "gru", "hidden_size": 6},
        "fit": {"max_epochs": 1, "batch_size": 8, "learning_rate": 0.02} | fit_fields,
    }
    return make_task(parse_recipe(fields, "tiny"), None)


@pytest.fixture(scope="module")
def task():
    return tiny_task()


def kind_of(*day):
    seconds = int(dt.datetime(*day, tzinfo=dt.UTC).timestamp())
    return DAY_KINDS[day_kinds(np.array([seconds]), "US")[0]]


def test_days_are_what_the_calendar_says():
    assert kind_of(2016, 7, 1) == "workday"
    assert kind_of(2016, 7, 2) == "Saturday"
    assert kind_of(2016, 7, 3) == "Sunday or holiday"
    assert kind_of(2016, 7, 4) == "Sunday or holiday"  # a Monday
    assert kind_of(2015, 7, 3) == "Sunday or holiday"  # a Friday, on which the 4th was observed
    assert kind_of(2010, 12, 31) == "Sunday or holiday"  # the New Year of 2011, observed


@pytest.mark.parametrize("seen", [{0}, {0, 2}, {0, 1, 2}])
def test_the_regression_answers_for_labels_that_it_never_saw(seen):
    rng = np.random.default_rng(1)
    labels = rng.choice(sorted(seen), size=60)
    rows = TaggedRows(rng.normal(size=(60, 2)).astype(np.float32), labels, DAY_KINDS)
    answers = _regression(rows, rows.values, 50, 7)
    assert answers.shape == (10, 3)
    np.testing.assert_allclose(answers.sum(axis=1), 1)
    assert not answers[:, sorted({0, 1, 2} - seen)].any()


def test_a_frequency_of_no_days_is_refused():
    with pytest.raises(RecipeError, match="frequency"):
        tiny_task(task={"frequency": "P0D"})


def test_a_country_without_holidays_is_refused():
    with pytest.raises(RecipeError, match=r"task\.holidays is 'XX'"):
        day_kinds(np.array([0]), "XX")


def test_training_and_validation_never_reach_the_held_out_rows(task):
    last = task.rows.values[task.held_out_start - 1]
    seen = [x for x, _ in task.train_batches(with_validation=False)]
    assert max(int(x.shape[1]) for x in seen) == 28
    [(validation, labels)] = task.validation_batches()
    assert validation.shape[1] == task.held_out_start - task.validation_start == labels.shape[1]
    torch.testing.assert_close(validation[0, -1], torch.from_numpy(last))
    assert len(task.rows.values) - task.held_out_start == 1139


def test_stretches_lie_a_stride_apart_and_hold_the_newest_row():
    rows = TaggedRows(np.arange(10, dtype=np.float32)[:, None], np.arange(10), DAY_KINDS)
    stretches = Stretches(rows, num_steps=4, stride=5)
    assert [stretches[n][1].tolist() for n in range(len(stretches))] == [
        [0, 1, 2, 3],
        [5, 6, 7, 8],
        [6, 7, 8, 9],
    ]


def test_cells_are_hidden_in_training_and_labels_are_not(task):
    torch.manual_seed(0)
    x, labels = torch.ones(50, 20, 2), torch.ones(50, 20, dtype=torch.int64)
    hidden, kept = task.prepare((x, labels))
    assert 0.45 < hidden.isnan().float().mean() < 0.55
    assert kept is labels


def test_a_missing_value_reaches_neither_answer_nor_state(task):
    torch.manual_seed(0)
    network = task.network().eval()
    x = torch.full((1, 5, 2), float("nan"))
    x[0, 2, 0], x[0, 3, 1] = 12.0, float("inf")
    answers, state = network(x, torch.tensor([5]), network.initial_state()[None])
    assert answers.isfinite().all()
    assert state.isfinite().all()
    torch.testing.assert_close(answers.sum(dim=-1), torch.ones(1, 5))


def test_the_unit_of_the_values_does_not_matter(task):
    """Scaling is the network's own: the same days in single entries get the same answers."""
    torch.manual_seed(0)
    network = task.network().eval()
    x = torch.from_numpy(task.rows.values[None, :30])
    expected = network.logits(x, None, None)[0]
    network.center.mul_(1000)
    network.spread.mul_(1000)
    torch.testing.assert_close(network.logits(1000 * x, None, None)[0], expected)


def test_losses_of_stretches_add_up_to_that_of_the_whole(task):
    network = task.network().eval()
    [batch] = [b for b, _ in zip(task.train_batches(with_validation=False), range(1), strict=False)]
    parts = list(truncated_losses(task.sequence_loss(), network, batch, 7, 7))
    assert len(parts) == 4
    whole = task.validation_loss(network, batch)
    torch.testing.assert_close(sum(parts) / 4, whole)


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (RecipeError, "not a series", {"source": "shakespeare"}),
        (RecipeError, "refit_on_validation", {"refit_on_validation": True}),
        (DataError, "rows are too few", {"task": {"sequence_steps": 5000}}),
    ],
)
def test_what_cannot_be_trained_is_refused(error, message, changes):
    with pytest.raises(error, match=message):
        tiny_task(**changes)
