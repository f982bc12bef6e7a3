"""Naver sentiment movie corpus: short Korean comments on films (Park, 2016)."""

from pathlib import Path

from training.data.labelled_texts import LabelledTexts, TextDataset, collect, read_table

LOOKS_LIKE = (
    "a tab-separated UTF-8 file (.tsv or .tsv.gz) with the header id, document, label, where label"
    " is 0 (negative) or 1 (positive)"
)


def read(path: Path) -> LabelledTexts:
    table = read_table(path, ("id", "document", "label"), LOOKS_LIKE)
    rows = ((number, text, label) for number, (_, text, label) in table)
    return collect(rows, ("0", "1"), path, LOOKS_LIKE)


DATASET = TextDataset(
    name="nsmc",
    title="Naver sentiment movie corpus",
    licence="CC0 1.0",
    note="Comments rated 1-4 are negative, 9-10 positive; those between were left out.",
    looks_like=LOOKS_LIKE,
    labels=("negative", "positive"),
    language="ko",
    read=read,
    weights_licence="CC0 1.0",
    weights_note="The corpus is in the public domain, and so are weights made from it.",
)
