"""First-order Markov model: AR(1). What comes next depends on the newest input alone.

y_t = W · x_t + b. The last input is carried, because it is all that the future depends on.
"""

from training.cells.ar import ARLayer
from training.config import Section


class MarkovLayer(ARLayer):
    """One Markov layer; `state` is the last input `[B,F]`."""

    Options = Section
    default_lags = 1


LAYER = MarkovLayer
