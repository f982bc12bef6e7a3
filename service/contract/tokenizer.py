"""The tokenizer of a bundle. Its failures must only affect the clients of that bundle.

Rule 1: panics of the Rust library `tokenizers` are raised as `PanicException`, which does not
        derive from `Exception`: it would end tasks and threads. Every call is made here, and fails
        with a `TokenizerError`.
Rule 2: truncation and padding of a tokenizer are switched off.
Rule 3: a tokenizer is tested on pieces of many kinds before it is used. If it fails on one, or
        takes too long for a piece of `MAX_PIECE_CHARS`, the bundle is refused.
"""

import time
from collections.abc import Iterator
from typing import Final

from tokenizers import Tokenizer

from service.contract.errors import BundleError, TokenizerError

MAX_PIECE_CHARS: Final = 32
SPACE_MARK: Final = "▁"

_MAX_PIECE_TOKENS: Final = 4096
"""Limit for one piece. Unicode normalisation makes fewer than 2,000 bytes of 32 characters."""
_MAX_PIECE_S: Final = 0.25
"""Limit of CPU time for one piece; an ordinary piece takes 0.0001 s."""


class PieceTokenizer:
    """Turns one piece of text at a time into tokens.

    Raises:
        BundleError: the JSON does not describe a tokenizer.
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
                f"the tokenizer cannot be read ({_first_line(error)}): expected JSON written by the"
                " 'tokenizers' library; export the bundle again"
            ) from None

    def encode(self, piece: str) -> tuple[int, ...]:
        """The tokens of a piece; may be empty.

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
                f"the tokenizer: expected at most {_MAX_PIECE_TOKENS} tokens for {len(piece)}"
                f" characters, found {len(tokens)}"
            )
        return tokens

    def probe(self) -> None:
        """Test it on pieces of many kinds.

        Raises:
            BundleError: it fails on one of them, or takes too long.
        """
        for piece in _probes():
            started_s = time.thread_time()
            try:
                self.encode(piece)
            except TokenizerError as error:
                raise BundleError(
                    f"{error} on {piece!r}: expected tokens for any text; export the bundle again"
                    " with another tokenizer"
                ) from None
            seconds = time.thread_time() - started_s
            if seconds > _MAX_PIECE_S:
                raise BundleError(
                    f"the tokenizer: expected at most {_MAX_PIECE_S:g} s for {piece!r}, took"
                    f" {seconds:.1f} s; export the bundle again with a simpler pattern"
                )


def _probes() -> Iterator[str]:
    """Pieces like those of `split_pieces`: runs, ends of runs, and characters of every script."""
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
    """Whether the library raised it: not a KeyboardInterrupt, for example."""
    return isinstance(error, Exception) or type(error).__module__ == "pyo3_runtime"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
