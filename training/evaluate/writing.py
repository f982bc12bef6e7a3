"""What an exported graph writes by itself after each of many beginnings, the likeliest first."""

import numpy as np

from service.contract.calls import Arrays
from service.contract.characters import CharacterCodec
from training.evaluate.served_model import ServedModel

_BATCH = 256


def write_each(
    model: ServedModel, inputs: Arrays, length: np.ndarray, max_characters: int
) -> list[str]:
    """Padded `inputs` `[B, T, …]` → what is written behind each row, its end left out."""
    written: list[str] = []
    for start in range(0, len(length), _BATCH):
        part = slice(start, start + _BATCH)
        rows = {name: values[part] for name, values in inputs.items()}
        written += _write_batch(model, rows, length[part], max_characters)
    return written


def _write_batch(
    model: ServedModel, inputs: Arrays, length: np.ndarray, max_characters: int
) -> list[str]:
    codec = model.codec
    assert isinstance(codec, CharacterCodec), "the bundle of a generator names its alphabet"
    outputs, rows = model.answer(inputs, length)
    logits = outputs["logits"][np.arange(len(length)), length - 1]
    is_through = np.zeros(len(length), bool)
    texts = [""] * len(length)
    for _ in range(max_characters):
        tokens = logits.argmax(axis=1)
        is_through |= tokens == codec.end_token
        if is_through.all():
            break
        for row in np.flatnonzero(~is_through):
            texts[row] += codec.decode(int(tokens[row]))
        fed = {"tokens": tokens[:, None]} | _nothing_else(model, len(tokens))
        outputs, rows = model.step(fed, (~is_through).astype(np.int64), rows)
        logits = outputs["logits"][:, 0]
    return texts


def _nothing_else(model: ServedModel, num_rows: int) -> Arrays:
    """Of a model that writes about vectors: that there is none at this step."""
    x = model.graph.input_with("x")
    return {} if x is None else {x.name: np.full(x.concrete(num_rows), np.nan, np.float32)}
