"""Tiny Shakespeare (Karpathy, 2015): 1.1 million characters of the plays, one after another."""

from training.data.plain_text import PlainText, read_text

LOOKS_LIKE = "a UTF-8 text file of at least some 100,000 characters, such as tinyshakespeare.txt"

DATASET = PlainText(
    name="shakespeare",
    title="Tiny Shakespeare",
    licence="public domain",
    note="Parts of the plays of William Shakespeare in one file.",
    looks_like=LOOKS_LIKE,
    language="en",
    read=lambda path: read_text(path, LOOKS_LIKE),
    weights_licence="Apache-2.0",
)
