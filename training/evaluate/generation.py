"""Judges an exported language model of characters: bits for each character of a text, and samples.

Axis legend: N characters, V of the alphabet.
"""

import numpy as np
from matplotlib.figure import Figure

from service.contract.characters import CharacterCodec
from service.contract.manifest import QualityFigure
from service.contract.sampling import Draws, choose, probabilities
from service.contract.text import UNREAD
from training.evaluate.baselines.character_ngrams import CharacterNgrams
from training.evaluate.plots.figure import BLUE, GREY, style, to_png
from training.evaluate.report import Evaluation, Plot, Table
from training.evaluate.served_model import ServedModel

_SLICE = 512
_SAMPLES = ((0.0, 1), (0.7, 1), (1.0, 2))
"""Temperature and seed."""
_SAMPLE_CHARACTERS = 240
_FOLLOWED = 10


def evaluate_generator(
    model: ServedModel, known: np.ndarray, held_out: np.ndarray, ngram_order: int
) -> Evaluation:
    """Tokens that training saw, and the tail that it did not: where that is empty, the first."""
    codec = model.codec
    assert isinstance(codec, CharacterCodec)  # the bundle of a generator names its alphabet
    size = len(codec.spec.characters)
    judged = held_out if len(held_out) else known
    where = f"{len(judged):,} characters " + (
        "that it never saw" if len(held_out) else "of the text that it learnt"
    )
    shares = read(model, judged)
    given = shares[np.arange(len(judged) - 1), judged[1:]]
    mine, accuracy = _bits(given), float((shares.argmax(axis=1) == judged[1:]).mean())
    ngrams = CharacterNgrams(known, ngram_order, size).probabilities(judged)
    rivals = [_bits(column) for column in ngrams.T]
    best = int(np.argmin(rivals))
    rival = f"interpolated {best + 1}-grams (Witten-Bell)"
    rows = [("this model", f"{mine:.3f}", f"{accuracy:.1%}")]
    rows += [
        (f"{n + 1}-grams" if n else "frequencies alone", f"{b:.3f}", "")
        for n, b in enumerate(rivals)
    ]
    rows.append(("all characters alike", f"{np.log2(size):.3f}", ""))
    return Evaluation(
        summary=(
            f"On {where} it needs {mine:.3f} bits a character, and its first guess is right about"
            f" {accuracy:.1%}; {rival}, the best order up to {ngram_order}, need"
            f" {rivals[best]:.3f} bits."
        ),
        figures=(
            QualityFigure(
                metric="bits_per_character",
                value=round(mine, 4),
                split=where,
                baseline=rival,
                baseline_value=round(rivals[best], 4),
            ),
            QualityFigure(metric="accuracy", value=round(accuracy, 4), split=where),
        ),
        tables=(
            Table(
                f"Bits a character ({where})",
                ("model", "bits a character", "first guess right"),
                rows,
                note="Read as one stream, as a session reads it. n-grams of order n look n - 1"
                " characters back and are interpolated with all shorter ones (Witten & Bell, 1991);"
                " they counted training and validation text.",
            ),
            *([] if len(held_out) else [_followers(codec, known, shares)]),
            _samples(model, codec),
        ),
        plots=(_plot(mine, rivals),),
        caveats=(
            "It knows the characters of its text and no others: any other is refused.",
            "It writes what looks like its text. It knows nothing, and says nothing that is meant.",
        ),
        is_held_out=len(held_out) > 0,
    )


def read(model: ServedModel, tokens: np.ndarray) -> np.ndarray:
    """What it expects after each character but the last, `[N - 1, V]`."""
    inputs = {"tokens": tokens[None, :-1].astype(np.int64)}
    outputs, _ = model.answer(inputs, np.array([len(tokens) - 1]), _SLICE)
    return probabilities(outputs["logits"][0])


def write(model: ServedModel, num_characters: int, temperature: float, seed: int) -> str:
    """As the service writes it, from the start text on."""
    codec = model.codec
    assert isinstance(codec, CharacterCodec)
    draws, written = Draws(seed, 0), ""
    tokens, rows = codec.feed(UNREAD, codec.spec.start), [model.layout.initial_row]
    fed = tokens.certain + tokens.tail
    while len(written) < num_characters:
        inputs = {"tokens": np.array([fed], np.int64)}
        outputs, rows = model.step(inputs, np.array([len(fed)]), rows)
        fed = [choose(outputs["logits"][0, -1], temperature, draws)]
        written += codec.decode(fed[0])
        if fed[0] == codec.end_token:
            break
    return written


def _bits(given: np.ndarray) -> float:
    return float(-np.log2(given).mean())


def _samples(model: ServedModel, codec: CharacterCodec) -> Table:
    num_characters = _SAMPLE_CHARACTERS if len(codec.spec.characters) > 10 else 4
    rows = [
        (
            f"{temperature:g}",
            str(seed),
            write(model, num_characters, temperature, seed).replace("\n", " ↵ ").replace("|", "¦"),
        )
        for temperature, seed in _SAMPLES
    ]
    title = f"What it writes after {codec.spec.start!r}"
    return Table(title, ("temperature", "seed", "text"), rows, is_numeric=False)


def _followers(codec: CharacterCodec, tokens: np.ndarray, shares: np.ndarray) -> Table:
    """What follows each beginning of a text, of which the first few are shown."""
    text = "".join(codec.decode(token) for token in tokens[: _FOLLOWED + 1].tolist())
    rows = [
        (repr(text[: n + 1]), repr(codec.decode(int(share.argmax()))), f"{share.max():.4f}")
        for n, share in enumerate(shares[:_FOLLOWED])
    ]
    return Table("What comes next", ("after", "it says", "probability"), rows)


def _plot(mine: float, rivals: list[float]) -> Plot:
    with style():
        figure = Figure(figsize=(6.5, 3.2), layout="constrained")
        panel = figure.subplots()
        orders = range(1, len(rivals) + 1)
        panel.plot(orders, rivals, color=GREY, marker="o", label="interpolated n-grams")
        panel.axhline(mine, color=BLUE, label="this model")
        panel.set_xticks(list(orders))
        panel.set_xlabel("order of the n-grams")
        panel.set_ylabel("bits a character")
        panel.set_title(f"{mine:.2f} bits a character; n-grams at best {min(rivals):.2f}")
        panel.legend()
        png = to_png(figure)
    return Plot("bits.png", "Bits a character against n-grams of each order.", png)
