"""A graph that differs from its golden run in any check is refused; the error names the check."""

import numpy as np
import pytest

from service.contract.bundle import Bundle, read_bundle, write_arrays
from service.contract.errors import BundleError, GoldenMismatchError
from service.contract.golden import GoldenRun, check_golden
from service.engine.models.registry import load_model
from tests.fakes.bundles import write_forecaster


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_forecaster(folder)
    return read_bundle(folder / "load" / "1")


@pytest.fixture(scope="module")
def call(bundle):
    return load_model(bundle).runner.call


def altered(bundle, change):
    """The bundle with its golden arrays changed in place."""
    arrays = {name: value.copy() for name, value in bundle.golden_arrays().items()}
    change(arrays)
    files = dict(bundle.files) | {bundle.manifest.golden.file: write_arrays(arrays)}
    return Bundle(bundle.manifest, files)


def wrong_when(call, is_wrong, change):
    """The graph, but with changed outputs in the calls that `is_wrong` selects."""

    def run(feeds):
        answers = {name: value.copy() for name, value in call(feeds).items()}
        if is_wrong(*feeds["x"].shape[:2]):
            change(answers, feeds)
        return answers

    return run


def test_the_graph_itself_passes(bundle, call):
    check_golden(bundle, call)


@pytest.mark.parametrize("name", ["out.mean", "state.state_out"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_graph_with_results_that_are_not_finite_is_refused_with_the_remedy(
    bundle, call, name, value
):
    """Even if the golden run has the same values, such as scores masked by -inf."""

    def spoil(arrays):
        arrays[name][(0,) * arrays[name].ndim] = value

    name_in_graph = name.partition(".")[2]
    with pytest.raises(GoldenMismatchError, match=f"infinity or NaN in '{name_in_graph}'.*-1e9"):
        check_golden(altered(bundle, spoil), call)


def test_outputs_after_the_end_of_a_row_may_be_anything(bundle, call):
    def spoil(arrays):
        arrays["out.mean"][arrays["length"] < 7, -1] = np.nan

    check_golden(altered(bundle, spoil), call)


@pytest.mark.parametrize(
    ("way", "is_wrong"),
    [
        ("whole", lambda num_rows, num_steps: (num_rows, num_steps) == (4, 7)),
        ("stepwise", lambda num_rows, num_steps: (num_rows, num_steps) == (4, 1)),
        ("chunked", lambda num_rows, num_steps: (num_rows, num_steps) == (4, 4)),
        ("alone", lambda num_rows, num_steps: num_rows == 1),
    ],
)
@pytest.mark.parametrize("name", ["mean", "quantiles", "state_out"])
def test_a_graph_with_other_outputs_in_one_check_is_refused(bundle, call, way, is_wrong, name):
    def add(answers, _):
        answers[name] += 0.1

    with pytest.raises(GoldenMismatchError, match=f"fed {way}: .* differs"):
        check_golden(bundle, wrong_when(call, is_wrong, add))


def test_a_row_of_length_0_keeps_its_state_bit_by_bit(bundle, call):
    def add_far_below_the_tolerance(answers, feeds):
        answers["state_out"][feeds["length"] == 0] += 1e-9

    run = wrong_when(call, lambda *_: True, add_far_below_the_tolerance)
    with pytest.raises(GoldenMismatchError, match="fed untouched: row 1 of length 0"):
        check_golden(bundle, run)


@pytest.mark.parametrize("name", ["mean", "state_out"])
def test_outputs_of_nan_are_refused(bundle, call, name):
    def blank(answers, _):
        answers[name][0, ..., 0] = np.nan

    with pytest.raises(GoldenMismatchError, match=f"'{name}' differs by nan"):
        check_golden(bundle, wrong_when(call, lambda *_: True, blank))


@pytest.mark.parametrize("name", ["out.mean", "out.quantiles", "state.state_out"])
def test_a_recorded_value_that_the_graph_does_not_reproduce_is_refused(bundle, call, name):
    def add(arrays):
        arrays[name][0] += 0.1

    with pytest.raises(GoldenMismatchError, match=f"'{name.partition('.')[2]}' differs"):
        check_golden(altered(bundle, add), call)


def scaled(bundle, by, scales):
    """The bundle with all outputs in another unit, and `scales` in its manifest."""

    def change(arrays):
        for name in arrays:
            if name.startswith("out."):
                arrays[name] *= np.float32(by)

    golden = bundle.manifest.golden.model_copy(update={"scales": scales})
    manifest = bundle.manifest.model_copy(update={"golden": golden})
    return Bundle(manifest, altered(bundle, change).files)


def in_unit(call, by, error=0.0):
    def run(feeds):
        answers = call(feeds)
        return {
            k: v if k == "state_out" else v * np.float32(by) + error for k, v in answers.items()
        }

    return run


@pytest.mark.parametrize("by", [1e-5, 1, 1e4])
def test_a_difference_is_measured_in_the_scale_of_its_output(bundle, call, by):
    """A difference of 1/10000 of the scale is rounding; 1/100 of it is another graph."""
    spread = float(bundle.golden_arrays()["out.mean"].std()) * by
    of_series = scaled(bundle, by, {"mean": spread, "quantiles": spread})
    check_golden(of_series, in_unit(call, by, error=0.5e-4 * spread))
    size = max(spread, float(abs(of_series.golden_arrays()["out.mean"]).max()))
    with pytest.raises(GoldenMismatchError, match=r"'mean' differs by .* of max\("):
        check_golden(of_series, in_unit(call, by, error=1e-2 * size))


def test_spreads_are_those_of_outputs_larger_than_1(bundle):
    """Outputs of an imported graph may be in any unit: the golden run shows their size."""
    golden = GoldenRun.from_arrays(scaled(bundle, 1e6, {}).golden_arrays())
    spreads = golden.spreads()
    known = golden.outputs["mean"][:, : golden.length.max()]
    rows = [row[:length] for row, length in zip(known, golden.length, strict=True)]
    assert spreads["mean"] == pytest.approx(np.concatenate(rows).astype(float).std())
    assert "quantiles" in spreads
    small = GoldenRun.from_arrays(scaled(bundle, 1e-6, {}).golden_arrays()).spreads()
    assert not {"mean", "quantiles"} & set(small)


def test_a_bundle_without_scales_is_verified_as_it_was_exported(bundle, call):
    assert bundle.manifest.golden.scales == {}
    in_thousands = scaled(bundle, 1e4, {})
    check_golden(in_thousands, in_unit(call, 1e4, error=0.5e-4))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("in.time", r"expected the inputs \['time', 'x'\] of the graph, found \['x'\]"),
        ("out.mean", r"expected the outputs .* found \['quantiles'\]"),
        ("state.state_out", r"expected the states \['state_out'\] of the graph, found \[\]"),
        ("length", "expected an array 'length', found none"),
    ],
)
def test_a_golden_run_without_one_of_its_arrays_is_refused(bundle, call, name, message):
    with pytest.raises(GoldenMismatchError, match=message):
        check_golden(altered(bundle, lambda arrays: arrays.pop(name)), call)


def test_a_golden_run_without_a_row_of_length_0_is_refused(bundle, call):
    def drop_it(arrays):
        is_fed = arrays["length"] > 0
        for name, value in arrays.items():
            arrays[name] = value[is_fed]

    with pytest.raises(GoldenMismatchError, match="expected a row of length 0, found none"):
        check_golden(altered(bundle, drop_it), call)


def test_steps_after_the_end_of_a_row_are_not_compared(bundle, call):
    def blank_the_padding(answers, feeds):
        padding = np.arange(feeds["x"].shape[1])[None, :] >= feeds["length"][:, None]
        answers["mean"][padding] = np.nan

    check_golden(bundle, wrong_when(call, lambda *_: True, blank_the_padding))


def test_an_invalid_archive_of_arrays_is_refused(bundle, call):
    files = dict(bundle.files) | {bundle.manifest.golden.file: b"PK\x03\x04 cut"}
    with pytest.raises(BundleError, match="arrays of the bundle cannot be read"):
        check_golden(Bundle(bundle.manifest, files), call)
