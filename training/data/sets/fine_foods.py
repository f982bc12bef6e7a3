"""Fine-food reviews: 5,000 English reviews of food products (McAuley & Leskovec, 2013)."""

import csv
from collections.abc import Iterator
from pathlib import Path

from training.data.labelled_texts import LabelledTexts, TextDataset, collect, read_lines
from training.errors import DataError

LOOKS_LIKE = (
    "a CSV file (.csv or .csv.gz, UTF-8) with the columns product, review, score, where score is"
    " other or great"
)


def read(path: Path) -> LabelledTexts:
    def rows() -> Iterator[tuple[int, str, str]]:
        reader = csv.DictReader(line for _, line in read_lines(path, LOOKS_LIKE))
        try:
            if reader.fieldnames != ["product", "review", "score"]:
                raise DataError(
                    f"{path}: its columns are {reader.fieldnames}; expected {LOOKS_LIKE}"
                )
            for row in reader:
                review = (row["review"] or "").replace("<br />", " ")
                yield reader.line_num, review, row["score"] or ""
        except csv.Error as error:
            raise DataError(f"{path}: cannot be read ({error}); expected {LOOKS_LIKE}") from None

    return collect(rows(), ("other", "great"), path, LOOKS_LIKE)


DATASET = TextDataset(
    name="fine_foods",
    title="Fine-food reviews",
    licence="MIT",
    note=(
        "From the R package modeldata (MIT, © modeldata authors), both of its tables;"
        " first published with McAuley & Leskovec (2013)."
    ),
    looks_like=LOOKS_LIKE,
    packaged="fine_foods.csv.gz",
    labels=("other", "great"),
    language="en",
    read=read,
    weights_licence="Apache-2.0",
    weights_note="Made from the packaged data alone.",
)
