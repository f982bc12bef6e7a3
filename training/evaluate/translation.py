"""Judges an exported encoder and decoder: how many texts it writes exactly as they should be."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from service.contract.characters import CharacterCodec
from service.contract.manifest import QualityFigure
from training.data.text_pairs import Pair
from training.evaluate.plots.figure import BLUE, ORANGE, style, to_png
from training.evaluate.report import Evaluation, Plot, Table
from training.evaluate.served_model import ServedModel
from training.evaluate.writing import write_each

_LENGTH_BIN = 10
_SHOWN = 6
_PLAIN = "the same without attention"


def evaluate_translator(
    model: ServedModel, plain: ServedModel, pairs: Sequence[Pair], mark: str
) -> Evaluation:
    """On pairs none of whose answers were trained on; `plain` learnt from the same ones."""
    answers = {"this model": translate(model, pairs, mark), _PLAIN: translate(plain, pairs, mark)}
    right = {
        name: np.array([t == p.target for t, p in zip(texts, pairs, strict=True)])
        for name, texts in answers.items()
    }
    mine, rival = (float(each.mean()) for each in right.values())
    split = f"{len(pairs):,} held-out pairs"
    return Evaluation(
        summary=(
            f"Of {split}, none of whose answers it was trained on, it writes {mine:.1%} without a"
            f" mistake; {_PLAIN} {rival:.1%}."
        ),
        figures=(
            QualityFigure(
                metric="exact_match",
                value=round(mine, 4),
                split=split,
                baseline=_PLAIN,
                baseline_value=round(rival, 4),
            ),
        ),
        tables=(_by_kind(pairs, right, split), _samples(pairs, answers["this model"])),
        plots=(_by_length(pairs, right),),
        caveats=(
            "It knows the ways of writing that it was trained on. Another may come out as an answer"
            " that looks right and is not: nothing tells the two apart.",
            "What it says is likely next while it reads means nothing; it learnt to write only.",
        ),
    )


def translate(model: ServedModel, pairs: Sequence[Pair], mark: str) -> list[str]:
    """What it writes of each, at temperature 0."""
    codec = model.codec
    assert isinstance(codec, CharacterCodec), "the bundle of a generator names its alphabet"
    rows = [codec.encode(pair.source + mark) for pair in pairs]
    length = np.array([len(row) for row in rows])
    tokens = np.zeros((len(rows), length.max()), np.int64)
    for row, filled in zip(rows, tokens, strict=True):
        filled[: len(row)] = row
    longest = max(len(pair.target) for pair in pairs)
    return write_each(model, {"tokens": tokens}, length, longest + 1)


def _by_kind(pairs: Sequence[Pair], right: dict[str, np.ndarray], split: str) -> Table:
    places: dict[str, list[int]] = defaultdict(list)
    for place, pair in enumerate(pairs):
        places[pair.kind or "all"].append(place)
    rows = [
        (kind, f"{len(found):,}", *(f"{each[found].mean():.1%}" for each in right.values()))
        for kind, found in sorted(places.items())
    ]
    rows.append(("all together", f"{len(pairs):,}", *(f"{e.mean():.1%}" for e in right.values())))
    return Table(
        f"Written without a mistake ({split})",
        ("written as", "pairs", *right),
        rows,
        note="At temperature 0, up to the end. Both were trained by the recipe below, on the same"
        " pairs and for as many updates; the one without attention, whose context is always zeros,"
        " would get further with more of them.",
    )


def _samples(pairs: Sequence[Pair], written: Sequence[str]) -> Table:
    """The first few, and the first few of those that are wrong."""
    places = [*range(_SHOWN)]
    wrong = [n for n, pair in enumerate(pairs) if written[n] != pair.target]
    places += [n for n in wrong if n >= _SHOWN][:_SHOWN]
    rows = [(pairs[n].source, written[n], pairs[n].target) for n in places if n < len(pairs)]
    title = "The first of them, and the first that are wrong"
    return Table(title, ("reads", "writes", "should be"), rows, is_numeric=False)


def _by_length(pairs: Sequence[Pair], right: dict[str, np.ndarray]) -> Plot:
    bins = np.array([len(pair.source) // _LENGTH_BIN for pair in pairs])
    found = np.unique(bins)
    with style():
        figure = Figure(figsize=(6.5, 3.2), layout="constrained")
        panel = figure.subplots()
        for (name, each), colour in zip(right.items(), (BLUE, ORANGE), strict=True):
            shares = [100 * each[bins == n].mean() for n in found]
            panel.plot(_LENGTH_BIN * found, shares, color=colour, marker="o", label=name)
        panel.set_xlabel(f"characters read, from … to {_LENGTH_BIN - 1} more")
        panel.set_ylabel("% without a mistake")
        panel.set_title("Attention and the length of what is read")
        panel.legend()
        png = to_png(figure)
    return Plot("lengths.png", "Texts without a mistake, by how long they are.", png)
