"""Text to tokens, a character each: for models that write.

Rule 1: the last character read is *pending*: it is fed, on a copy of the state, for the answer, and
        for good only when another one follows. So generation starts by feeding it, and what is
        answered does not depend on how the text was cut.
Rule 2: as long as nothing was read, the spec's `start` stands for a text. It is forgotten as soon
        as a text comes, and kept once something is written behind it.
Rule 3: a character outside the alphabet is refused, never replaced.
"""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.contract.errors import TextError
from service.contract.text import FedText, TextCodec, TextCursor


class GenerateSpec(BaseModel):
    """How a model of characters reads and writes: token n is the n-th character of `characters`.

    `start` is read where a text has no beginning of its own; writing ends behind `end`. A model
    with `columns` writes about a vector of so many values, which it reads before any text: at a
    step whose `x` is known it reads `x` in place of a token, and where `x` is NaN the token.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    characters: Annotated[str, Field(min_length=2, max_length=65_536)]
    start: Annotated[str, Field(min_length=1, max_length=1024)]
    end: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    language: str = ""
    columns: Annotated[tuple[str, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_alphabet(self) -> Self:
        if len(set(self.characters)) != len(self.characters):
            raise ValueError("characters holds one of them twice")
        strangers = sorted(set(self.start + (self.end or "")) - set(self.characters))
        if strangers:
            raise ValueError(f"start and end hold {strangers}, which are not in characters")
        if self.columns is not None and len(set(self.columns)) != len(self.columns):
            raise ValueError("two columns share a name")
        return self


class CharacterCodec:
    """The alphabet of one bundle, with the rules above."""

    def __init__(self, spec: GenerateSpec) -> None:
        self.spec = spec
        self._tokens = {character: token for token, character in enumerate(spec.characters)}
        self.end_token = None if spec.end is None else self._tokens[spec.end]

    def feed(self, cursor: TextCursor, chunk: str) -> FedText:
        """Append `chunk` to the stream at `cursor`, whose `num_tokens` counts the pending one too.

        Raises:
            TextError: the chunk holds a character that the model does not know.
        """
        pending = cursor.pending if cursor.num_tokens else ""
        text = pending + chunk
        tokens = self.encode(text or self.spec.start)
        behind = TextCursor(text[-1], cursor.num_tokens + len(chunk)) if text else cursor
        return FedText(tokens[:-1], behind, tokens[-1:])

    def encode(self, text: str) -> list[int]:
        """One token for each character."""
        try:
            return [self._tokens[character] for character in text]
        except KeyError as error:
            place = text.index(error.args[0])
            raise TextError(
                f"{error.args[0]!r} (character {place}) is none of the {len(self._tokens)}"
                f" characters that this model knows: expected some of {self._shown()}"
            ) from None

    def decode(self, token: int) -> str:
        return self.spec.characters[token]

    def _shown(self) -> str:
        shown = self.spec.characters
        return repr(shown if len(shown) <= 100 else shown[:100] + "…")


Codec = TextCodec | CharacterCodec
"""How a model of text reads."""
