"""What a language model of characters must beat: interpolated n-grams (Witten & Bell, 1991).

    p_k(c | context of k) = (count(context, c) + kinds(context) · p_{k−1}(c)) / (count + kinds)

where `kinds` is how many different characters followed the context; p_{−1} is uniform.
"""

from collections import Counter, defaultdict

import numpy as np


class CharacterNgrams:
    """Counts of one text, for contexts of up to `order - 1` characters."""

    def __init__(self, tokens: np.ndarray, order: int, num_characters: int) -> None:
        self._num_characters = num_characters
        text = _as_text(tokens)
        self._followers: list[dict[str, Counter[str]]] = []
        for size in range(order):
            followers: defaultdict[str, Counter[str]] = defaultdict(Counter)
            for place in range(size, len(text)):
                followers[text[place - size : place]][text[place]] += 1
            self._followers.append(dict(followers))

    def probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """Of each character behind the first, given those before it, by order: `[N - 1, order]`."""
        text = _as_text(tokens)
        found = np.empty((len(text) - 1, len(self._followers)))
        for place in range(1, len(text)):
            p = 1 / self._num_characters
            for size, followers in enumerate(self._followers):
                seen = followers.get(text[place - size : place]) if size <= place else None
                if seen:
                    p = (seen[text[place]] + len(seen) * p) / (seen.total() + len(seen))
                found[place - 1, size] = p
        return found


def _as_text(tokens: np.ndarray) -> str:
    return "".join(map(chr, tokens.tolist()))
