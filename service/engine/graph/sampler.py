"""Writing: each chosen character is fed back, in the same queue as everybody else's steps.

Rule 1: a writer belongs to one job, which asks it for the next segment when one is through.
Rule 2: what is written depends on the state, the seed and the session's step alone.
Rule 3: it ends after `max_tokens` characters or behind the model's end. The last one stays pending,
        as if it had been read: its segment is run on a copy of the state.
Rule 4: a listener hears characters before they are committed. When a job is run anew, because
        another writer was first, it is told that what it heard is void.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from service.contract.characters import CharacterCodec
from service.contract.sampling import Draws, choose
from service.contract.text import TextCursor

LogitsOf = Callable[[bytes], np.ndarray]
"""Packed outputs of one step → `[V]`."""
StepsOf = Callable[[list[int]], np.ndarray]
"""Tokens → what the runner is given for them."""


class Listener(Protocol):
    """Called on the event loop; it must not block."""

    def began(self) -> None: ...

    def wrote(self, text: str) -> None: ...


class Sampling(NamedTuple):
    """How much to generate, and how to sample. `listener` is not part of the request's identity."""

    max_tokens: int
    temperature: float = 1.0
    seed: int = 0
    listener: Listener | None = None

    def described(self) -> str:
        return f"{self.max_tokens} at {self.temperature!r} by {self.seed}"


class Sampler:
    """Chooses what comes next until it is through; `text` is what it wrote."""

    def __init__(
        self,
        codec: CharacterCodec,
        sampling: Sampling,
        step: int,
        behind: TextCursor,
        logits_of: LogitsOf,
        steps_of: StepsOf,
    ) -> None:
        """It writes on at `behind`, in a session at `step`."""
        self._codec = codec
        self._sampling = sampling
        self._draws = Draws(sampling.seed, step)
        self._behind = behind
        self._logits_of = logits_of
        self.steps_of = steps_of
        self._is_through = False
        self.text = ""
        if sampling.listener is not None:
            sampling.listener.began()

    @property
    def max_steps(self) -> int:
        """At most as many steps of the graph follow what was read."""
        return self._sampling.max_tokens

    @property
    def cursor(self) -> TextCursor:
        """How far the text has been read, with what was written."""
        return TextCursor(self.text[-1], self._behind.num_tokens + len(self.text))

    def write(self, outputs: bytes) -> tuple[int, bool] | None:
        """The outputs of the last step → the token to feed, and whether it is the last; None: end.

        The last one is fed only for what is expected behind it.
        """
        if self._is_through:
            return None
        token = choose(self._logits_of(outputs), self._sampling.temperature, self._draws)
        character = self._codec.decode(token)
        self.text += character
        if self._sampling.listener is not None:
            self._sampling.listener.wrote(character)
        is_full = len(self.text) >= self._sampling.max_tokens
        self._is_through = is_full or token == self._codec.end_token
        return token, self._is_through
