"""Judges an exported tagger on the tail of its series, read as one stream.

Axis legend: N rows, F columns, C labels.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # scikit-learn has no types
from sklearn.metrics import confusion_matrix, log_loss  # type: ignore[import-untyped]  # scikit-learn has no types
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]  # scikit-learn has no types
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]  # scikit-learn has no types

from service.contract.manifest import QualityFigure
from training.evaluate.plots.classification import plot_confusion
from training.evaluate.report import Evaluation, Table
from training.evaluate.served_model import ServedModel

_HIDDEN_EVERY = 5
"""Rows from one hidden row to the next, in the run that asks what memory is worth."""


@dataclass(frozen=True, slots=True)
class TaggedRows:
    """`values[N, F]` (NaN is missing) and `labels[N]`, places in `names`."""

    values: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def take(self, rows: range) -> "TaggedRows":
        part = slice(rows.start, rows.stop)
        return TaggedRows(self.values[part], self.labels[part], self.names)


def evaluate_tagger(
    model: ServedModel, rows: TaggedRows, held_out_start: int, baseline_values: int
) -> Evaluation:
    """The model is fed from the first row on, as a session is; rivals learnt from all before."""
    truth = rows.labels[held_out_start:]
    regression = f"logistic regression on the last {baseline_values} values"
    answers = {
        "this model": tag(model, rows.values)[held_out_start:],
        regression: _regression(rows, rows.values, held_out_start, baseline_values),
        "the commonest label": _shares(rows, held_out_start),
    }
    accuracy = {name: _accuracy(truth, p) for name, p in answers.items()}
    losses = {name: float(log_loss(truth, p, labels=_places(rows))) for name, p in answers.items()}
    split = f"{len(truth):,} held-out rows, the newest"
    mine, rival = accuracy["this model"], accuracy[regression]
    figures = [
        _figure("accuracy", split, accuracy, regression),
        _figure("accuracy", split, accuracy, "the commonest label"),
        _figure("log_loss", split, losses, regression),
    ]
    return Evaluation(
        summary=(
            f"Of {split}, it labels {mine:.1%} rightly, each as soon as it is read; a {regression}"
            f" {rival:.1%}, and always saying the commonest label"
            f" {accuracy['the commonest label']:.1%}."
        ),
        figures=tuple(figures),
        tables=(
            _table(rows, truth, answers, losses, split),
            _hidden_table(model, rows, held_out_start, baseline_values, regression),
        ),
        plots=(
            plot_confusion(
                confusion_matrix(truth, _said(answers["this model"])), rows.names, "rows"
            ),
        ),
        caveats=(
            f"With no row missing, it is wrong about {_errors(mine, truth)} rows and the regression"
            f" about {_errors(rival, truth)}.",
            "It knows one series: what another one's days look like has not been measured.",
            "The labels are those of a calendar. A holiday that people work on looks like a"
            " workday, and the values cannot tell otherwise.",
        ),
    )


def tag(model: ServedModel, values: np.ndarray) -> np.ndarray:
    """`values[N, F]` as one stream → probabilities `[N, C]`."""
    outputs, _ = model.answer({"x": values[None]}, np.array([len(values)]))
    probabilities: np.ndarray = outputs["probabilities"][0]
    return probabilities


def _regression(
    rows: TaggedRows, values: np.ndarray, held_out_start: int, num_values: int
) -> np.ndarray:
    """Learns from `values` before the held-out ones, and is asked about the others."""
    newest = _newest(values, num_values, held_out_start)
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    seen = rows.labels[:held_out_start]
    if len(np.unique(seen)) == 1:  # scikit-learn's needs two labels to tell apart
        return _shares(rows, held_out_start)
    fitted.fit(newest[:held_out_start], seen)
    answers = np.zeros((len(rows.labels) - held_out_start, len(rows.names)))
    answers[:, fitted.classes_] = fitted.predict_proba(newest[held_out_start:])
    return answers


def _newest(values: np.ndarray, num_values: int, held_out_start: int) -> np.ndarray:
    """`[N, num_values × 2F]`, each row's own first: values, and which of them are known.

    What is missing is the mean of the rows before the held-out ones.
    """
    known = np.isfinite(values)
    filled = np.where(known, values, np.nanmean(values[:held_out_start], axis=0))
    features = np.concatenate([filled, known], axis=1)
    padded = np.concatenate([np.repeat(features[:1], num_values - 1, axis=0), features])
    count = len(values)
    back = [padded[num_values - 1 - n : num_values - 1 - n + count] for n in range(num_values)]
    return np.concatenate(back, axis=1)


def _shares(rows: TaggedRows, held_out_start: int) -> np.ndarray:
    """Every label as often as it was seen."""
    seen = np.bincount(rows.labels[:held_out_start], minlength=len(rows.names))
    return np.tile(seen / held_out_start, (len(rows.labels) - held_out_start, 1))


def _figure(metric: str, split: str, values: dict[str, float], baseline: str) -> QualityFigure:
    return QualityFigure(
        metric=metric,
        value=round(values["this model"], 4),
        split=split,
        baseline=baseline,
        baseline_value=round(values[baseline], 4),
    )


def _table(
    rows: TaggedRows,
    truth: np.ndarray,
    answers: dict[str, np.ndarray],
    losses: dict[str, float],
    split: str,
) -> Table:
    cells = [
        (
            name,
            f"{_accuracy(truth, p):.1%}",
            f"{losses[name]:.3f}",
            *(f"{_accuracy(truth[truth == n], p[truth == n]):.1%}" for n in _places(rows)),
        )
        for name, p in answers.items()
    ]
    counts = ", ".join(f"{(truth == n).sum()} {rows.names[n]}" for n in _places(rows))
    return Table(
        f"Labels ({split})",
        ("", "right", "log loss", *(f"right of {name}" for name in rows.names)),
        cells,
        note=f"{counts}. Both rivals learnt from all rows before these; this model not from the"
        " newest of those, which decided when to stop.",
    )


def _hidden_table(
    model: ServedModel,
    rows: TaggedRows,
    held_out_start: int,
    baseline_values: int,
    regression: str,
) -> Table:
    """What each says of rows that come without their values."""
    hidden = np.arange(len(rows.values)) % _HIDDEN_EVERY == 0
    values = np.where(hidden[:, None], np.float32(np.nan), rows.values)
    asked, truth = hidden[held_out_start:], rows.labels[held_out_start:]
    answers = {
        "this model": tag(model, values)[held_out_start:],
        regression: _regression(rows, values, held_out_start, baseline_values),
        "the commonest label": _shares(rows, held_out_start),
    }
    cells = [
        (name, f"{_accuracy(truth[asked], p[asked]):.1%}", f"{_accuracy(truth, p):.1%}")
        for name, p in answers.items()
    ]
    return Table(
        f"The same with every {_HIDDEN_EVERY}th row missing",
        ("", "right of missing rows", "right of all"),
        cells,
        note="A missing row can be labelled from earlier rows only. The regression learnt from"
        " rows of which as many were missing; it reads the mean, and that it is none, in their"
        " place.",
    )


def _places(rows: TaggedRows) -> range:
    return range(len(rows.names))


def _said(probabilities: np.ndarray) -> np.ndarray:
    said: np.ndarray = probabilities.argmax(axis=1)
    return said


def _errors(accuracy: float, truth: np.ndarray) -> int:
    return round((1 - accuracy) * len(truth))


def _accuracy(truth: np.ndarray, probabilities: np.ndarray) -> float:
    return float((_said(probabilities) == truth).mean())
