"""Text to tokens, with the same result for a whole text and for chunks of any size.

The text is cut into *pieces*, and each piece is normalised and tokenised separately.

Rule 1: a piece is a run of word characters, or a run of other visible characters, of at most
        `MAX_PIECE_CHARS`; white space before it becomes one mark (``▁``) at its start. A text
        starts as if white space preceded it.
Rule 2: the end of a piece depends only on the text up to the character after it. So a piece is
        certain as soon as the next one starts; the last one is *pending* until then.
Rule 3: the first token of every text is the start token, so an empty text has a prediction too.
Rule 4: pending text is bounded: one piece and at most one white space on either side.
Rule 5: every piece has at least one token, so every text has a prediction.

Normalisation applies to a finished piece and never across two, so every normaliser of the
`tokenizers` library is safe here.
"""

import re
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.contract.errors import TextError
from service.contract.graph import FileName
from service.contract.tokenizer import MAX_PIECE_CHARS, SPACE_MARK, PieceTokenizer

PIECE_RULE = "carry-pieces/1"

# Combining accents, joiners, variation selectors and skin tones stay with the preceding character.
_JOINING = "\u0300-\u036f\u200d\ufe00-\ufe0f\U0001f3fb-\U0001f3ff"
_PIECE = re.compile(
    rf"(\s*)(\w[\w'’{_JOINING}]{{0,{MAX_PIECE_CHARS - 1}}}|[^\w\s]{{1,{MAX_PIECE_CHARS}}})"
)
_MAX_CACHED_PIECES = 100_000


class TextSpec(BaseModel):
    """How text becomes the `tokens` input (see `service.contract.text`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokenizer: FileName
    piece_rule: Literal["carry-pieces/1"]
    start_token: int = Field(ge=0)
    vocabulary_size: int = Field(ge=1)
    language: str

    @model_validator(mode="after")
    def _start_token_exists(self) -> Self:
        if self.start_token >= self.vocabulary_size:
            raise ValueError(
                f"expected a start_token below vocabulary_size {self.vocabulary_size}, found"
                f" {self.start_token}"
            )
        return self


@dataclass(frozen=True, slots=True)
class TextCursor:
    """The position in a stream of text up to which tokens can no longer change."""

    pending: str = " "
    num_tokens: int = 0


UNREAD = TextCursor()
"""The start of a text."""

NO_TEXT = TextCursor(pending="")
"""The cursor of a session of rows."""


@dataclass(frozen=True, slots=True)
class FedText:
    """What one chunk adds: certain tokens, the cursor after them, and the uncertain tail.

    `certain` followed by `tail` leads to the prediction for the whole text so far; the state must
    only contain `certain`. `tail` is never empty.
    """

    certain: list[int]
    cursor: TextCursor
    tail: list[int]


class TextCodec:
    """The tokenizer of one bundle with the piece rule."""

    def __init__(self, tokenizer_json: str, start_token: int) -> None:
        self._tokenizer = PieceTokenizer(tokenizer_json)
        self._start_token = start_token
        self._cache: dict[str, tuple[int, ...]] = {}

    def feed(self, cursor: TextCursor, chunk: str) -> FedText:
        """Append `chunk` to the stream at `cursor`.

        Raises:
            TextError: the chunk contains a lone surrogate, which no text encoding supports.
            TokenizerError: the tokenizer fails on a piece of it.
        """
        _refuse_surrogates(chunk)
        pieces, pending = split_pieces(cursor.pending + chunk)
        certain = [] if cursor.num_tokens or not pieces else [self._start_token]
        for piece in pieces:
            certain += self._encode_piece(piece)
        after = TextCursor(pending, cursor.num_tokens + len(certain))
        return FedText(certain, after, self._tail(after))

    def encode(self, text: str) -> list[int]:
        """All tokens of a whole text, including the tail."""
        fed = self.feed(TextCursor(), text)
        return fed.certain + fed.tail

    def probe(self) -> None:
        """Test the tokenizer before it is used.

        Raises:
            BundleError: it fails, or takes too long.
        """
        self._tokenizer.probe()

    def _tail(self, cursor: TextCursor) -> list[int]:
        match = _PIECE.match(cursor.pending)
        tail = [] if cursor.num_tokens else [self._start_token]
        return tail + list(self._encode_piece(_marked(match))) if match else tail

    def _encode_piece(self, piece: str) -> tuple[int, ...]:
        tokens = self._cache.get(piece)
        if tokens is None:
            if len(self._cache) >= _MAX_CACHED_PIECES:
                self._cache.clear()
            tokens = self._tokenizer.encode(piece)
            tokens = tokens or (self._start_token,)  # a normaliser may delete the whole piece
            self._cache[piece] = tokens
        return tokens


def split_pieces(text: str) -> tuple[list[str], str]:
    """`text` → its certain pieces (marked for white space) and the pending rest."""
    # The pattern would take quadratic time on white space at the end.
    matches = list(_PIECE.finditer(text.rstrip()))
    if not matches:
        return [], " " if text else ""
    last = matches[-1]
    before = " " if last[1] else ""
    after = " " if last.end() < len(text) else ""
    return [_marked(match) for match in matches[:-1]], before + last[2] + after


def _marked(match: re.Match[str]) -> str:
    return (SPACE_MARK if match[1] else "") + match[2]


def _refuse_surrogates(chunk: str) -> None:
    try:
        chunk.encode()
    except UnicodeEncodeError as error:
        raise TextError(
            f"expected whole Unicode characters, found half of a surrogate pair at character"
            f" {error.start}; cut chunks between characters, not between UTF-16 units"
        ) from None
