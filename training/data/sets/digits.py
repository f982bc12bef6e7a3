"""Handwritten digits with their names in letters: an image in, a word out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import sklearn.datasets  # type: ignore[import-untyped]  # no type information

from service.contract.manifest import DataSource
from training.data.dataset import Dataset, hash_files
from training.data.digit_images import halve, packaged_digits, read_mnist

NAMES: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LOOKS_LIKE = (
    "an .npz file in MNIST's form: x_train [N, 28, 28], y_train, x_test, y_test; images are halved"
    " to 14 × 14"
)


@dataclass(frozen=True, slots=True)
class NamedVectors:
    """`vectors[N, F]`, whose values `columns` names, and the name of each."""

    columns: tuple[str, ...]
    vectors: np.ndarray
    names: list[str]
    held_out_vectors: np.ndarray
    held_out_names: list[str]


@dataclass(frozen=True, kw_only=True)
class NamedVectorSet(Dataset):
    """Images that have names: those of scikit-learn, unless `--data` names a file."""

    language: str

    @property
    def is_found(self) -> bool:
        return True

    def load(self, data_path: str | None) -> NamedVectors:
        if data_path is None:
            digits = packaged_digits()
            images, held_out = digits.images, digits.test_images
        else:
            digits = read_mnist(self.locate(data_path))
            images, held_out = halve(digits.images), halve(digits.test_images)
        num_rows, num_columns = images.shape[1:]
        return NamedVectors(
            tuple(f"y{y}x{x}" for y in range(num_rows) for x in range(num_columns)),
            images.reshape(len(images), -1).astype(np.float32),
            [NAMES[label] for label in digits.labels],
            held_out.reshape(len(held_out), -1).astype(np.float32),
            [NAMES[label] for label in digits.test_labels],
        )

    def source_of(self, loaded: NamedVectors, data_path: str | None) -> DataSource:
        """Provenance; of the packaged digits the file is scikit-learn's."""
        ours = Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"
        is_ours = data_path is None
        return DataSource(
            name=self.title,
            sha256=hash_files(ours if data_path is None else self.locate(data_path)),
            rows=len(loaded.names) + len(loaded.held_out_names),
            licence=self.licence if is_ours else "not known: a file given with --data",
            note=self.note if is_ours else f"read as {self.name!r} data",
        )


DATASET = NamedVectorSet(
    name="digits",
    title="Handwritten digits of 8 × 8 (Alpaydin & Kaynak, 1998)",
    licence="BSD-3-Clause, as packaged with scikit-learn",
    note="Grey levels from 0 to 16, here divided by 16.",
    looks_like=LOOKS_LIKE,
    language="en",
)
