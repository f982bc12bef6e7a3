"""The runner of a model that writes about vectors, whose graph reads tokens and vectors.

Its values are float32 `[T, 1 + F]`, a token and a vector for each step, one of which is read: so
that everything between the API and here treats them like rows. A token is exact as a float32, since
an alphabet has at most 65,536 of them.
"""

from collections.abc import Sequence

import numpy as np

from service.engine.graph.runner import Runner, pad_rows

_PACKED = np.dtype(np.float32)


class VectorRunner(Runner):
    """Runs batches of steps that read a token or a vector."""

    def observed(
        self, values: Sequence[np.ndarray] | np.ndarray, longest: int
    ) -> dict[str, np.ndarray]:
        """As `Runner.observed`, of packed steps."""
        packed = values if isinstance(values, np.ndarray) else pad_rows(values, longest, _PACKED)
        assert self._tokens is not None, "the manifest asks for tokens and x"
        assert self._x is not None, "the manifest asks for tokens and x"
        return {
            self._tokens.name: packed[..., 0].astype(self._tokens.numpy_dtype),
            self._x.name: packed[..., 1:].astype(self._x.numpy_dtype),
        }


def steps_of_tokens(tokens: list[int], num_values: int) -> np.ndarray:
    """A step for each token, without a vector."""
    packed = np.full((len(tokens), 1 + num_values), np.nan, _PACKED)
    packed[:, 0] = tokens
    return packed


def step_of_vector(vector: np.ndarray) -> np.ndarray:
    """The one step that reads `vector[F]`."""
    return np.concatenate([np.zeros(1, _PACKED), vector.astype(_PACKED)])[None]
