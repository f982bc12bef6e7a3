"""Images of handwritten digits for the pixel-by-pixel experiments.

Packaged with scikit-learn: 1,797 digits of 8 × 8 (UCI, Alpaydin & Kaynak, 1998). With `--data`, a
file in the form in which MNIST is usually passed on: an .npz with `x_train [N, 28, 28]`, `y_train`,
`x_test`, `y_test`.

Axis legend: N images, P pixels a side.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # no type information

from training.errors import DataError

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_SHUFFLE_SEED = 1797


@dataclass(frozen=True, slots=True)
class DigitImages:
    """`images[N, P, P]` in [0, 1] and `labels[N]`, split into training and test."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def packaged_digits() -> DigitImages:
    """Digits of 8 × 8, shuffled: the last 360 are for the test."""
    found = load_digits()
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(found.target))
    images = (found.images[order] / 16).astype(np.float32)
    labels = found.target[order].astype(np.int64)
    return DigitImages(images[:-360], labels[:-360], images[-360:], labels[-360:])


def read_mnist(path: Path) -> DigitImages:
    """MNIST from an .npz, its training images shuffled (some files hold them sorted by class).

    Raises:
        DataError: no such file, or it does not look like that.
    """
    looks_like = (
        f"an .npz file with the arrays {', '.join(_ARRAYS)}: images as [N, 28, 28] of grey levels"
        " from 0 to 255, labels as [N] of digits"
    )
    try:
        with np.load(path) as file:
            x, y, x_test, y_test = (file[name] for name in _ARRAYS)
    except (OSError, EOFError, KeyError, ValueError, BadZipFile, TypeError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected {looks_like}") from None
    for images, labels, ending in ((x, y, "train"), (x_test, y_test, "test")):
        if images.shape != (*labels.shape, 28, 28) or not len(labels):
            raise DataError(
                f"{path}: x_{ending} is {list(images.shape)} and y_{ending} {list(labels.shape)};"
                f" expected {looks_like}"
            )
        _refuse_beyond(images, 255, f"{path}: x_{ending}", looks_like)
        _refuse_beyond(labels, 9, f"{path}: y_{ending}", looks_like, is_whole=True)
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(y))
    return DigitImages(
        (x[order] / 255).astype(np.float32),
        y[order].astype(np.int64),
        (x_test / 255).astype(np.float32),
        y_test.astype(np.int64),
    )


def _refuse_beyond(
    values: np.ndarray, highest: int, what: str, looks_like: str, *, is_whole: bool = False
) -> None:
    """Name the first value that is not a (whole) number from 0 to `highest`; NaN is none."""
    if values.dtype.kind not in "buif":
        raise DataError(f"{what} holds {values.dtype}, not numbers; expected {looks_like}")
    is_wrong = ~((values >= 0) & (values <= highest))
    if is_whole:
        is_wrong |= values != np.floor(values)
    if is_wrong.any():
        place = tuple(int(index) for index in np.argwhere(is_wrong)[0])
        raise DataError(
            f"{what}{list(place)} is {values[place]}, expected 0 to {highest}: correct that value;"
            f" expected {looks_like}"
        )


def halve(images: np.ndarray) -> np.ndarray:
    """`[N, 2P, 2P]` → `[N, P, P]`: the mean of every four neighbours."""
    half = images.shape[1] // 2
    return np.asarray(images.reshape(len(images), half, 2, half, 2).mean(axis=(2, 4)))
