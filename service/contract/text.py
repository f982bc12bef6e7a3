"""Text to tokens, the same whether the text comes whole or in chunks of any size.

The text is cut into *pieces*, and each piece is tokenised alone (normalisation included).

Rule 1: a piece is a run of word characters, or a run of other visible characters, of at most
        `MAX_PIECE_CHARS`; white space before it becomes one mark (``▁``) at its start. A text
        starts as if white space stood before it.
Rule 2: where a piece ends depends only on the text up to the character after it. So a piece is
        certain as soon as the next one has begun; the last one is *pending* until then.
Rule 3: the first token of every text is the start token, so an empty text has an answer too.
Rule 4: pending text is bounded: one piece and at most one white space on either side.
Rule 5: every piece has at least one token, so what has been read is never without an answer.

Because normalisation is applied to a finished piece and never across two of them, any normaliser
that the `tokenizers` library offers is safe here.
"""

import re
from dataclasses import dataclass

from service.contract.errors import TextError
from service.contract.tokenizer import MAX_PIECE_CHARS, SPACE_MARK, PieceTokenizer

PIECE_RULE = "carry-pieces/1"

# Combining accents, joiners, variation selectors and skin tones stay with what they follow.
_JOINING = "\u0300-\u036f\u200d\ufe00-\ufe0f\U0001f3fb-\U0001f3ff"
_PIECE = re.compile(
    rf"(\s*)(\w[\w'’{_JOINING}]{{0,{MAX_PIECE_CHARS - 1}}}|[^\w\s]{{1,{MAX_PIECE_CHARS}}})"
)
_MAX_CACHED_PIECES = 100_000


@dataclass(frozen=True, slots=True)
class TextCursor:
    """How far a stream of text has been turned into tokens that can no longer change."""

    pending: str = " "
    num_tokens: int = 0


UNREAD = TextCursor()
"""Nothing has been read yet."""

NO_TEXT = TextCursor(pending="")
"""Of a session of rows."""


@dataclass(frozen=True, slots=True)
class FedText:
    """What one chunk adds: tokens now certain, the cursor behind them, and the uncertain tail.

    `certain` followed by `tail` brings a model to the answer for the whole text so far; only
    `certain` may be kept in the state. `tail` is never empty.
    """

    certain: list[int]
    cursor: TextCursor
    tail: list[int]


class TextCodec:
    """The tokenizer of one bundle together with the piece rule."""

    def __init__(self, tokenizer_json: str, start_token: int) -> None:
        self._tokenizer = PieceTokenizer(tokenizer_json)
        self._start_token = start_token
        self._cache: dict[str, tuple[int, ...]] = {}

    def feed(self, cursor: TextCursor, chunk: str) -> FedText:
        """Append `chunk` to the stream at `cursor`.

        Raises:
            TextError: the chunk holds a lone surrogate, which no text encoding can carry.
            TokenizerError: the tokenizer fails on a piece of it.
        """
        _refuse_surrogates(chunk)
        pieces, pending = split_pieces(cursor.pending + chunk)
        certain = [] if cursor.num_tokens or not pieces else [self._start_token]
        for piece in pieces:
            certain += self._encode_piece(piece)
        behind = TextCursor(pending, cursor.num_tokens + len(certain))
        return FedText(certain, behind, self._tail(behind))

    def encode(self, text: str) -> list[int]:
        """All tokens of a whole text: what a stream of it has fed, tail included."""
        fed = self.feed(TextCursor(), text)
        return fed.certain + fed.tail

    def probe(self) -> None:
        """Try the tokenizer before it serves.

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
            tokens = tokens or (self._start_token,)  # a normaliser may leave nothing of it
            self._cache[piece] = tokens
        return tokens


def split_pieces(text: str) -> tuple[list[str], str]:
    """`text` → its certain pieces (marked for white space) and the pending rest."""
    # White space that nothing follows would be tried from each of its characters.
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
            f"text holds half of a surrogate pair at character {error.start}: expected whole"
            " Unicode characters; cut chunks between characters, not between UTF-16 units"
        ) from None
