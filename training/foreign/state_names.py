"""Which output follows which input, and which axis is that of steps, by what they are called.

A name is a row of words. One word says that a value was before (`initial`, `prev`, `in`, `hx`) or
comes after (`next`, `present`, `out`, `hy`); the others are its stem. Two names with one stem, of
which at least one has such a word, are a state.
"""

import re
from typing import Final


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_BEFORE: Final = _set(
    "initial init prev previous past old last pre begin start before tm1 0 in input inputs i x"
)
_AFTER: Final = _set(
    "final last next new present updated update post end after cur current out output outputs n o y"
    " 1 t tp1"
)
_WEAK: Final = _set("in input inputs i x out output outputs o y n t 0 1 start end")
"""Words that inputs and outputs have too which are no states."""

_IN_OUT: Final = _set("in input inputs i out output outputs o")
_HELD: Final = _set(
    "h c s hc hx cx hidden cell state states mem memory cache caches buffer carry past prev"
)
"""Words for what a layer keeps, not for the layer."""

_SIGNALS: Final = _set(
    "x y u audio signal speech wav wave waveform pcm sample samples mic frame frames image src"
    " source mag magnitude spec spectrum spectrogram mel feature features feat noisy clean token"
    " tokens id ids data value values text input output observation obs action"
)
_TIMES: Final = _set(
    "time times t timestep timesteps seq seqs sequence sequences frame frames step steps token"
    " tokens length len seqlen"
)
_FILLERS: Final = _set("num n nb len length dim axis size count number of")
_ROWS: Final = _set("batch b bs batchsize n rows row streams")
_STATES: Final = _HELD | _set("recurrent rnn gru lstm previous initial context")
_LENGTHS: Final = _set("length lengths len lens seqlen seqlens")


def is_next(before: str, after: str) -> bool:
    """Whether an output's name says that it is what follows an input."""
    for stem, mark in _readings(before, _BEFORE):
        for other, other_mark in _readings(after, _AFTER):
            if stem == other and _tells(set(stem), {mark, other_mark} - {""}):
                return True
    return False


def is_time(axis: object) -> bool:
    """`time`, `T`, `seq_len`, `num_frames`."""
    words = set(_words(axis)) if isinstance(axis, str) else set()
    return bool(words & _TIMES) and words <= _TIMES | _FILLERS


def is_rows(axis: object) -> bool:
    """`batch`, `batch_size`, `N`."""
    words = set(_words(axis)) if isinstance(axis, str) else set()
    return bool(words & _ROWS) and words <= _ROWS | _FILLERS


def is_state(name: str) -> bool:
    """Whether an input is called as states are."""
    words = {word.rstrip("0123456789") for word in _words(name)}
    return bool(words & _STATES) and not words & (_SIGNALS - {"input"})


def is_length(name: str) -> bool:
    """`length`, `sequence_lens`, `x_len`."""
    return bool(set(_words(name)) & _LENGTHS)


def is_signal(name: str) -> bool:
    """Whether an input is called as observations are."""
    return bool(set(_words(name)) & _SIGNALS)


def _tells(stem: set[str], marks: set[str]) -> bool:
    """`past` → `present` and `in_h` → `out_h` tell enough, `audio_in` → `audio_out` does not."""
    words = {word.rstrip("0123456789") for word in stem} - {""}
    if not words:
        return len(marks) == 2 and not marks & _WEAK
    if len(marks) == 2 and marks <= _IN_OUT:  # a layer has these too
        return bool(words & _HELD) or all(len(word) == 1 for word in words - _SIGNALS or {"xx"})
    return bool(marks) and not (marks <= _WEAK and words & _SIGNALS)


def _words(name: str) -> tuple[str, ...]:
    """`serving_default_hPrev:0` → `h prev`."""
    name = re.sub(r"^onnx::|^serving_default_|^StatefulPartitionedCall[:_]?|:\d+$", "", name)
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return tuple(word.lower() for word in re.split(r"[^A-Za-z0-9]+", name) if word)


def _readings(name: str, marks: frozenset[str]) -> set[tuple[tuple[str, ...], str]]:
    """Each way of taking one word of `marks` out of a name: the rest, and the word ('' for none).

    A mark may hang on to its word, as in `hn`, `c0`, `statein`.
    """
    words = _words(name)
    found = {(words, "")}
    for place, word in enumerate(words):
        rest = (*words[:place], *words[place + 1 :])
        if word in marks:
            found.add((rest, word))
        for mark in marks:
            stem = word.removesuffix(mark)
            if stem != word and stem:
                found.add(((*words[:place], stem, *words[place + 1 :]), mark))
    return found
