"""Judges an exported model that writes about vectors: how many it names exactly."""

from collections import Counter

import numpy as np
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # scikit-learn has no types
from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-untyped]  # scikit-learn has no types

from service.contract.characters import CharacterCodec
from service.contract.manifest import QualityFigure
from service.contract.text import UNREAD
from training.data.sets.digits import NamedVectors
from training.evaluate.plots.figure import style, to_png
from training.evaluate.report import Evaluation, Plot, Table
from training.evaluate.served_model import ServedModel
from training.evaluate.writing import write_each

_NEAREST = "the name of the nearest known vector"
_REGRESSION = "a logistic regression's name"
_COMMONEST = "the commonest name"
_SHOWN = 12


def evaluate_captioner(model: ServedModel, data: NamedVectors) -> Evaluation:
    """Rivals know the names of all vectors that are not held out."""
    truth = np.array(data.held_out_names)
    neighbour = KNeighborsClassifier(1).fit(data.vectors, data.names)
    regression = LogisticRegression(max_iter=2000).fit(data.vectors, data.names)
    answers = {
        "this model": np.array(name_each(model, data.held_out_vectors)),
        _NEAREST: neighbour.predict(data.held_out_vectors),
        _REGRESSION: regression.predict(data.held_out_vectors),
        _COMMONEST: np.full(len(truth), Counter(data.names).most_common(1)[0][0]),
    }
    share = {name: float((said == truth).mean()) for name, said in answers.items()}
    wrong = {name: int((said != truth).sum()) for name, said in answers.items()}
    split = f"{len(truth)} held-out images"
    mine = share["this model"]
    return Evaluation(
        summary=(
            f"Of {split}, it spells the name of {mine:.1%} without a mistake; {_NEAREST} is right"
            f" about {share[_NEAREST]:.1%}, {_REGRESSION} about {share[_REGRESSION]:.1%}, and"
            f" {_COMMONEST} about {share[_COMMONEST]:.1%}."
        ),
        figures=tuple(
            QualityFigure(
                metric="exact_match",
                value=round(mine, 4),
                split=split,
                baseline=rival,
                baseline_value=round(share[rival], 4),
            )
            for rival in (_NEAREST, _REGRESSION, _COMMONEST)
        ),
        tables=(
            Table(
                f"Names without a mistake ({split})",
                ("", "right", "wrong"),
                [(name, f"{share[name]:.1%}", f"{wrong[name]}") for name in answers],
                note="At temperature 0, letter by letter, up to the end. The nearest vector is that"
                " of the least Euclidean distance. Rivals say a whole name, and learnt from all"
                " images that are not held out; this model not from those that decided what was"
                " kept.",
            ),
        ),
        plots=(_plot_wrong(data, answers["this model"], truth),),
        caveats=(
            f"It mistakes {wrong['this model']} images; who keeps all of them and looks for the"
            f" nearest, {wrong[_NEAREST]}. How it reads other hands has not been measured.",
            "It writes a digit's name whatever it is shown.",
        ),
    )


def name_each(model: ServedModel, vectors: np.ndarray) -> list[str]:
    """What it writes about each of `vectors[N, F]`, at temperature 0."""
    codec = model.codec
    assert isinstance(codec, CharacterCodec), "the bundle of a generator names its alphabet"
    start = codec.feed(UNREAD, "").tail
    x = np.full((len(vectors), 1 + len(start), vectors.shape[1]), np.nan, np.float32)
    x[:, 0] = vectors
    tokens = np.tile(np.array([0, *start], np.int64), (len(vectors), 1))
    length = np.full(len(vectors), 1 + len(start))
    return write_each(model, {"tokens": tokens, "x": x}, length, max_characters=16)


def _plot_wrong(data: NamedVectors, said: np.ndarray, truth: np.ndarray) -> Plot:
    """The first that are wrong, then the first that are right."""
    order = np.argsort(said == truth, kind="stable")[:_SHOWN]
    side = round(data.held_out_vectors.shape[1] ** 0.5)
    with style():
        figure = Figure(figsize=(8, 3.0), layout="constrained")
        for panel, place in zip(figure.subplots(2, _SHOWN // 2).flat, order, strict=True):
            image = data.held_out_vectors[place].reshape(side, side)
            panel.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            mark = "" if said[place] == truth[place] else f", not {truth[place]}"
            panel.set_title(f"{said[place]}{mark}", fontsize=8)
            panel.set_axis_off()
        png = to_png(figure)
    return Plot("images.png", "What it writes; images that it mistakes come first.", png)
