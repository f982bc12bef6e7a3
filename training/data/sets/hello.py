"""The word of every first lecture on recurrent networks: after "hell" comes "o"."""

from training.data.plain_text import PlainText, read_text

LOOKS_LIKE = "a UTF-8 text file of a few characters"

DATASET = PlainText(
    name="hello",
    title='The word "hello"',
    licence="public domain",
    note="Five characters.",
    looks_like=LOOKS_LIKE,
    packaged="hello.txt",
    language="en",
    read=lambda path: read_text(path, LOOKS_LIKE),
    weights_licence="Apache-2.0",
)
