"""Images with names: a value that is no grey level, or no digit, is named by its place."""

from pathlib import Path

import numpy as np
import pytest

from training.data.digit_images import read_mnist
from training.errors import DataError


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    images = np.full((4, 28, 28), 255.0)
    labels = np.arange(4.0)
    return {"x_train": images, "y_train": labels, "x_test": images[:2], "y_test": labels[:2]}


def read(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(folder / "digits.npz", **arrays)
    read_mnist(folder / "digits.npz")


def test_grey_levels_and_digits_are_read(tmp_path: Path, arrays) -> None:
    read(tmp_path, arrays)
    read(tmp_path, {name: values.astype(np.uint8) for name, values in arrays.items()})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39, -1, 256])
@pytest.mark.parametrize("name", ["x_train", "x_test"])
def test_a_value_that_is_no_grey_level_is_named(tmp_path: Path, arrays, name, value) -> None:
    arrays[name] = arrays[name].copy()
    arrays[name][1, 3, 5] = value
    with pytest.raises(DataError, match=rf"{name}\[1, 3, 5\] is .*expected 0 to 255"):
        read(tmp_path, arrays)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1, 10, 2.5])
@pytest.mark.parametrize("name", ["y_train", "y_test"])
def test_a_label_that_is_no_digit_is_named(tmp_path: Path, arrays, name, value) -> None:
    arrays[name] = arrays[name].copy()
    arrays[name][1] = value
    with pytest.raises(DataError, match=rf"{name}\[1\] is .*expected 0 to 9"):
        read(tmp_path, arrays)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("y_test", np.zeros(3), r"x_test is \[2, 28, 28\] and y_test \[3\]"),
        ("x_train", np.zeros((0, 28, 28)), r"x_train is \[0, 28, 28\]"),
        ("x_train", np.full((4, 28, 28), "a"), r"x_train holds <U1, not numbers"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    tmp_path: Path, arrays, name, values, says
) -> None:
    with pytest.raises(DataError, match=says):
        read(tmp_path, arrays | {name: values})
