"""Sampling of the next character: the same seed and step give the same text on any machine.

Rule 1: random numbers come from Philox (Salmon et al., 2011), a counter-based generator: its key is
        the seed, and each step has its own counter, so sessions carry no generator state.
Rule 2: arithmetic is in float64, whatever the dtype of the graph. Two machines may still differ if
        their logits differ by rounding and a number falls between the two.
"""

import numpy as np

MAX_SEED = 2**64 - 1


class Draws:
    """The random numbers in [0, 1) of one seed at one step, in order."""

    def __init__(self, seed: int, step: int) -> None:
        # The low words count the draws of a step, so no two steps share a draw.
        bits = np.random.Philox(key=seed, counter=[0, 0, step, 0])
        self._generator = np.random.Generator(bits)

    def next(self) -> float:
        return float(self._generator.random())


def choose(logits: np.ndarray, temperature: float, draws: Draws) -> int:
    """Sample a token from `logits[V]` at `temperature`; 0 takes the most probable.

    Raises:
        FloatingPointError: the largest logit is not finite.
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
