"""How the next character is chosen: the same seed and step give the same text on any machine.

Rule 1: a number for each choice comes from Philox (Salmon et al., 2011), a generator without a
        past: its key is the seed, and the step has a counter of its own. Nothing is carried.
Rule 2: arithmetic is in float64, whatever the graph's type is. Two machines may still part where
        their logits differ by rounding and a number falls between the two.
"""

import numpy as np

MAX_SEED = 2**64 - 1


class Draws:
    """The numbers in [0, 1) of one seed at one step, one after another."""

    def __init__(self, seed: int, step: int) -> None:
        # The low words count the draws of a step, so no two steps share one.
        bits = np.random.Philox(key=seed, counter=[0, 0, step, 0])
        self._generator = np.random.Generator(bits)

    def next(self) -> float:
        return float(self._generator.random())


def choose(logits: np.ndarray, temperature: float, draws: Draws) -> int:
    """A token by its probability at `temperature`, from `logits[V]`; at 0 the likeliest.

    Raises:
        FloatingPointError: the graph has left the numbers: there is nothing to choose by.
    """
    if not np.isfinite(logits.max()):
        raise FloatingPointError("the largest logit is not finite")
    if temperature == 0:
        return int(np.argmax(logits))
    scaled = (logits.astype(np.float64) - float(logits.max())) / temperature
    shares = np.cumsum(np.exp(scaled))
    return int(np.searchsorted(shares, draws.next() * shares[-1], side="right"))


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    shares: np.ndarray = weights / weights.sum(axis=-1, keepdims=True)
    return shares
