"""Judges an exported text classifier on held-out texts, after whole texts and after prefixes.

Axis legend: N texts, C classes, P prefix lengths.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score  # type: ignore[import-untyped]  # scikit-learn has no types

from service.contract.manifest import QualityFigure
from service.contract.text import TextCodec
from training.data.labelled_texts import LabelledTexts, Part
from training.data.text_batches import TokenRows, batches_by_length
from training.evaluate.baselines.texts import majority, tfidf_regression
from training.evaluate.plots.classification import (
    plot_calibration,
    plot_confusion,
    plot_prefixes,
)
from training.evaluate.report import Evaluation, Table
from training.evaluate.served_model import ServedModel

PREFIX_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_MAX_CELLS = 60_000
_NUM_BINS = 15
_MIN_PROBABILITY = 1e-7  # float32 rounds smaller ones away
_REGRESSION = "TF-IDF logistic regression"


@dataclass(frozen=True, slots=True)
class Answers:
    """What the graph answered for N texts: `prefixes` has, for each of PREFIX_TOKENS that some
    text reaches, the probabilities after that many tokens (or the whole text, if shorter)."""

    whole: np.ndarray
    prefixes: dict[int, np.ndarray]
    num_tokens: np.ndarray


def evaluate_classifier(
    model: ServedModel,
    parts: Mapping[Part, LabelledTexts],
    labels: tuple[str, ...],
    ngrams: str,
) -> Evaluation:
    """Figures, tables and pictures. The baselines learn from training and validation texts."""
    held_out = parts["held out"]
    answers = ask(model, held_out)
    truth = held_out.labels
    known = LabelledTexts(
        parts["training"].texts + parts["validation"].texts,
        np.concatenate([parts["training"].labels, parts["validation"].labels]),
    )
    rivals = {
        "this model": answers.whole,
        _REGRESSION: tfidf_regression(known, held_out, ngrams),
        "majority": majority(known, held_out),
    }
    scores = {name: Scores.of(truth, p) for name, p in rivals.items()}
    mine, rival = scores["this model"], scores[_REGRESSION]
    split = f"{len(truth):,} held-out texts"
    figures = tuple(
        QualityFigure(
            metric=metric,
            value=round(getattr(mine, metric), 4),
            split=split,
            baseline=_REGRESSION,
            baseline_value=round(getattr(rival, metric), 4),
        )
        for metric in ("accuracy", "f1", "log_loss", "calibration_error")
    )
    return Evaluation(
        summary=(
            f"On {split} it is right about {mine.accuracy:.1%}; a TF-IDF logistic regression"
            f" ({ngrams}), which must wait for the whole text, about {rival.accuracy:.1%}, and"
            f" always saying {labels[int(np.bincount(known.labels).argmax())]!r} about"
            f" {scores['majority'].accuracy:.1%}."
        ),
        figures=figures,
        tables=(_whole_table(scores, split), _prefix_table(truth, answers)),
        plots=(
            plot_prefixes(truth, answers.prefixes, rival.accuracy),
            plot_calibration(
                _bins(truth, answers.whole)[:2], _bins(truth, rivals[_REGRESSION])[:2]
            ),
            plot_confusion(confusion_matrix(truth, answers.whole.argmax(axis=1)), labels),
        ),
        caveats=(
            "It knows no language but that of its texts, and no subject but theirs: on other"
            " subjects expect to lose accuracy, and measure before relying on it.",
            f"Half of its texts have more than {np.median(answers.num_tokens):.0f} tokens. A single"
            " sentence is judged like the start of such a text: see the table of first tokens.",
            "It has no label for neutral texts: those count as one of its labels, often with a"
            " probability near one half.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Scores:
    """`calibration_error` is the mean gap between confidence and accuracy over equally full bins
    (Naeini et al., 2015); `f1` is the mean of the labels' F1."""

    accuracy: float
    f1: float
    log_loss: float
    calibration_error: float

    @classmethod
    def of(cls, truth: np.ndarray, probabilities: np.ndarray) -> "Scores":
        """truth[N], probabilities[N, C]."""
        guess = probabilities.argmax(axis=1)
        given = probabilities[np.arange(len(truth)), truth]
        confidence, right, share = _bins(truth, probabilities)
        return cls(
            accuracy=float((guess == truth).mean()),
            f1=float(f1_score(truth, guess, average="macro")),
            log_loss=float(-np.log(given.clip(min=_MIN_PROBABILITY)).mean()),
            calibration_error=float((np.abs(confidence - right) * share).sum()),
        )


def ask(model: ServedModel, texts: LabelledTexts) -> Answers:
    """Feed every text from its start token on, and keep the answers after each prefix."""
    assert isinstance(model.codec, TextCodec)  # the bundle of a classifier names its tokenizer
    rows = TokenRows(texts, model.codec, max_tokens=None)
    longest = int(rows.length.max())
    cuts = [n for n in PREFIX_TOKENS if n < longest]
    num_classes = int(model.graph.outputs[0].shape[-1])
    found = {n: np.zeros((len(rows), num_classes)) for n in [*cuts, longest]}
    for index in batches_by_length(rows.length, _MAX_CELLS):
        tokens, length, _ = rows.batch(index.tolist())
        outputs, _ = model.answer({"tokens": tokens.numpy()}, length.numpy())
        steps = outputs[model.graph.outputs[0].name]
        for cut, kept in found.items():
            last = np.minimum(cut, length.numpy()) - 1
            kept[index] = steps[np.arange(len(index)), last]
    return Answers(found[longest], {n: found[n] for n in cuts}, rows.length)


def _bins(
    truth: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence, accuracy and share of answers of each bin, least confident first.

    Bins are equally full, but equal confidences are never parted: their order would decide.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, _NUM_BINS + 1)[1:-1]))
    place = np.searchsorted(edges, confidence, side="right")
    count = np.bincount(place)
    used = count > 0
    mean_confidence, accuracy = (
        np.bincount(place, weights=values)[used] / count[used] for values in (confidence, right)
    )
    return mean_confidence, accuracy, count[used] / len(truth)


def _whole_table(scores: dict[str, Scores], split: str) -> Table:
    rows = [
        (
            name,
            f"{s.accuracy:.2%}",
            f"{s.f1:.4f}",
            f"{s.log_loss:.4f}",
            f"{s.calibration_error:.2%}",
        )
        for name, s in scores.items()
    ]
    header = ("model", "accuracy", "F1 (mean of labels)", "log loss", "calibration error")
    return Table(f"Whole texts ({split})", header, rows)


def _prefix_table(truth: np.ndarray, answers: Answers) -> Table:
    rows = []
    shown = {str(n): p for n, p in answers.prefixes.items()} | {"all": answers.whole}
    for name, probabilities in shown.items():
        scores = Scores.of(truth, probabilities)
        ended = 1.0 if name == "all" else float((answers.num_tokens <= int(name)).mean())
        rows.append(
            (
                name,
                f"{scores.accuracy:.2%}",
                f"{probabilities.max(axis=1).mean():.2%}",
                f"{scores.log_loss:.4f}",
                f"{ended:.0%}",
            )
        )
    return Table(
        "After the first tokens of each text",
        ("tokens read", "accuracy", "mean confidence", "log loss", "texts at their end"),
        rows,
        note="The first token is the start token, so the first row has read nothing yet.",
    )
