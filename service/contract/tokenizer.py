"""The tokenizer of a bundle, of which nothing may reach anybody but the bundle's own clients.

Rule 1: the `tokenizers` library is Rust, and its panics come as `PanicException`, which is no
        `Exception`: it would pass every boundary of ours, and end tasks and threads. Each call is
        made here, and fails by a `TokenizerError`.
Rule 2: truncation and padding of a tokenizer are switched off: a piece has the tokens that it has.
Rule 3: a tokenizer is tried on pieces of many kinds before it serves. One that fails on any of
        them, or takes longer than any piece of `MAX_PIECE_CHARS` should, is refused.
"""

import time
from collections.abc import Iterator
from typing import Final

from tokenizers import Tokenizer

from service.contract.errors import BundleError, TokenizerError

MAX_PIECE_CHARS: Final = 32
SPACE_MARK: Final = "▁"

_MAX_PIECE_TOKENS: Final = 4096
"""Of one piece. The longest that Unicode's own rules make of 32 characters is below 2,000 bytes."""
_MAX_PIECE_S: Final = 0.25
"""Of a processor's time; an ordinary piece takes 0.0001 s."""


class PieceTokenizer:
    """Turns one piece of text at a time into tokens.

    Raises:
        BundleError: the JSON is not that of a tokenizer.
    """

    def __init__(self, tokenizer_json: str) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer_json)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
        except BaseException as error:
            if not _is_of_library(error):
                raise
            raise BundleError(
                f"the tokenizer cannot be read ({_first_line(error)}): expected the JSON that the"
                " 'tokenizers' library writes; export the bundle again"
            ) from None

    def encode(self, piece: str) -> tuple[int, ...]:
        """The tokens of a piece; there may be none.

        Raises:
            TokenizerError: the tokenizer fails on this piece.
        """
        try:
            tokens = tuple(self._tokenizer.encode(piece, add_special_tokens=False).ids)
        except BaseException as error:
            if not _is_of_library(error):
                raise
            raise TokenizerError(f"the tokenizer fails ({_first_line(error)})") from None
        if len(tokens) > _MAX_PIECE_TOKENS:
            raise TokenizerError(
                f"the tokenizer makes {len(tokens)} tokens of {len(piece)} characters: expected at"
                f" most {_MAX_PIECE_TOKENS}"
            )
        return tokens

    def probe(self) -> None:
        """Try it on pieces of many kinds.

        Raises:
            BundleError: it fails on one of them, or takes too long.
        """
        for piece in _probes():
            began_s = time.thread_time()
            try:
                self.encode(piece)
            except TokenizerError as error:
                raise BundleError(
                    f"{error} on {piece!r}: expected tokens for any text; export the bundle again"
                    " with another tokenizer"
                ) from None
            seconds = time.thread_time() - began_s
            if seconds > _MAX_PIECE_S:
                raise BundleError(
                    f"the tokenizer takes {seconds:.1f} s for {piece!r}: expected at most"
                    f" {_MAX_PIECE_S:g} s; export the bundle again with a simpler pattern"
                )


def _probes() -> Iterator[str]:
    """Pieces as `split_pieces` makes them: runs, ends of runs, and characters of every script."""
    printable = [chr(code) for code in range(33, 127)]
    for character in printable:
        yield character
        yield character * MAX_PIECE_CHARS
        yield SPACE_MARK + character * (MAX_PIECE_CHARS - 1)
        yield SPACE_MARK + character * (MAX_PIECE_CHARS - 2) + ("!" if character != "!" else "a")
    text = "".join(printable) * 2
    for start in range(0, len(printable), 8):
        yield SPACE_MARK + text[start : start + MAX_PIECE_CHARS]
    for pair in ("ab", "a1", "a'", ".,", "aA", "é́", "한a"):
        yield pair * (MAX_PIECE_CHARS // 2)
    for block in (*range(0x80, 0xD800, 0x80), *range(0xE000, 0x1FFFF, 0x200)):
        yield "".join(chr(code) for code in range(block, block + MAX_PIECE_CHARS))
    yield SPACE_MARK
    yield ""


def _is_of_library(error: BaseException) -> bool:
    """Whether the library raised it, and not the caller that waits for it."""
    return isinstance(error, Exception) or type(error).__module__ == "pyo3_runtime"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
