"""Text to tokens, one per character: for models that write.

Rule 1: the last character read is *pending*: the prediction feeds it on a copy of the state, and
        the state gets it only with the next character. So generation starts by feeding it, and
        predictions do not depend on how the text is cut into chunks.
Rule 2: until text is read, the spec's `start` is used in its place. Text that is read replaces it;
        text that the model writes follows it.
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
            raise ValueError("expected distinct characters, found duplicates")
        unknown = sorted(set(self.start + (self.end or "")) - set(self.characters))
        if unknown:
            raise ValueError(f"start and end contain {unknown}, which are not in characters")
        if self.columns is not None and len(set(self.columns)) != len(self.columns):
            raise ValueError("expected distinct names of columns, found duplicates")
        return self


class CharacterCodec:
    """The alphabet of one bundle."""

    def __init__(self, spec: GenerateSpec) -> None:
        self.spec = spec
        self._tokens = {character: token for token, character in enumerate(spec.characters)}
        self.end_token = None if spec.end is None else self._tokens[spec.end]

    def feed(self, cursor: TextCursor, chunk: str) -> FedText:
        """Append `chunk` to the stream at `cursor`, whose `num_tokens` includes the pending one.

        Raises:
            TextError: the chunk contains a character outside the alphabet.
        """
        pending = cursor.pending if cursor.num_tokens else ""
        text = pending + chunk
        tokens = self.encode(text or self.spec.start)
        after = TextCursor(text[-1], cursor.num_tokens + len(chunk)) if text else cursor
        return FedText(tokens[:-1], after, tokens[-1:])

    def encode(self, text: str) -> list[int]:
        """One token for each character."""
        try:
            return [self._tokens[character] for character in text]
        except KeyError as error:
            index = text.index(error.args[0])
            raise TextError(
                f"expected characters that this model knows ({self._shown()}), found"
                f" {error.args[0]!r} (character {index})"
            ) from None

    def decode(self, token: int) -> str:
        return self.spec.characters[token]

    def _shown(self) -> str:
        shown = self.spec.characters
        return repr(shown if len(shown) <= 100 else shown[:100] + "…")


Codec = TextCodec | CharacterCodec
"""How a model reads text."""
