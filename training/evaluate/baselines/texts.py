"""What a text classifier must beat. Each learns from `known` and gives `[N, C]` for `asked`."""

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]  # scikit-learn has no types
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # scikit-learn has no types
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]  # scikit-learn has no types

from training.data.labelled_texts import LabelledTexts

_REGULARISATION = {"words 1-2": 30.0, "characters 1-3": 4.0}
_VECTORIZERS = {
    "words 1-2": {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
    "characters 1-3": {"ngram_range": (1, 3), "analyzer": "char"},
}
_MAX_NGRAMS = 300_000


def tfidf_regression(known: LabelledTexts, asked: LabelledTexts, ngrams: str) -> np.ndarray:
    """Logistic regression on TF-IDF of n-grams: strong, cheap, and in need of the whole text."""
    model = make_pipeline(
        TfidfVectorizer(
            sublinear_tf=True, max_features=_MAX_NGRAMS, min_df=2, **_VECTORIZERS[ngrams]
        ),
        LogisticRegression(C=_REGULARISATION[ngrams], max_iter=300),
    )
    model.fit(known.texts, known.labels)
    probabilities: np.ndarray = model.predict_proba(asked.texts)
    return probabilities


def majority(known: LabelledTexts, asked: LabelledTexts) -> np.ndarray:
    """Every label as often as it was seen."""
    shares = np.bincount(known.labels) / len(known)
    return np.tile(shares, (len(asked), 1))
