"""Makes the tokenizer of a text model from its training rows.

Byte-pair encoding (Sennrich et al., 2016) over pieces, never across them: the pieces are those of
`service.contract.text`, which the service cuts in the same way. The same texts give the same file.
"""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, trainers

from service.contract.text import split_pieces

NONE_TOKEN = 0
"""The id of padding, and of the place before the start of a text."""
UNKNOWN_TOKEN = 1
START_TOKEN = 2
SPECIAL_TOKENS = ("<none>", "<unknown>", "<start>")

_MAX_CHARACTERS = 3000
"""Rarer characters than this many are unknown: they would crowd out useful tokens."""
_MIN_PAIR_COUNT = 3


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> str:
    """The tokenizer's JSON, of at most `vocabulary_size` tokens, the special ones included."""
    counts: Counter[str] = Counter()
    for text in texts:
        # What follows a text makes its last piece certain, and stays pending itself.
        pieces, _ = split_pieces(f" {text} .")
        counts.update(pieces)
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS[UNKNOWN_TOKEN]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        limit_alphabet=min(_MAX_CHARACTERS, vocabulary_size // 2),
        min_frequency=_MIN_PAIR_COUNT,
        show_progress=False,
    )
    # Sorted, so that ties between equally frequent pairs fall the same way in every run.
    repeated = (piece for piece, count in sorted(counts.items()) for _ in range(count))
    tokenizer.train_from_iterator(repeated, trainer)
    return str(tokenizer.to_str())
