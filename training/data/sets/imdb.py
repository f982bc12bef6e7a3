"""Large movie review dataset: long English reviews from IMDB (Maas et al., 2011)."""

import re
from collections.abc import Iterator
from pathlib import Path

from training.data.labelled_texts import LabelledTexts, TextDataset, collect, read_table

LOOKS_LIKE = (
    "a tab-separated UTF-8 file (.tsv or .tsv.gz) with the header id, label, text, where label is"
    " 0 (negative) or 1 (positive), nothing is quoted and a backslash escapes what follows it"
)

_OF_AN_APP = re.compile(r"\b(this app|app ?store|play ?store|google play)\b", re.IGNORECASE)
"""Some copies of the data hold reviews of phone apps in place of those of films."""
_BREAK = re.compile(r"<br\s*/?>")
_ESCAPED = re.compile(r"\\(.)")


def read(path: Path) -> LabelledTexts:
    table = read_table(path, ("id", "label", "text"), LOOKS_LIKE)

    def rows() -> Iterator[tuple[int, str, str]]:
        for number, (_, label, text) in table:
            if not _OF_AN_APP.search(text):
                yield number, _BREAK.sub(" ", _ESCAPED.sub(r"\1", text)), label

    return collect(rows(), ("0", "1"), path, LOOKS_LIKE)


DATASET = TextDataset(
    name="imdb",
    title="Large movie review dataset (IMDB)",
    licence="research use, citing Maas et al. (2011)",
    note=(
        "Reviews rated 1-4 are negative, 7-10 positive. Rows that speak of phone apps are left out."
        " The reviews belong to their authors."
    ),
    looks_like=LOOKS_LIKE,
    labels=("negative", "positive"),
    language="en",
    read=read,
    weights_licence="research and demonstration only",
    weights_note=(
        "The data set was published for research, with no licence for other use. The weights hold"
        " no review, but were made from reviews: before commercial use, train the same recipe on"
        " texts of your own."
    ),
)
