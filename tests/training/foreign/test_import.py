import numpy as np
import pytest

from service.contract.bundle import read_bundle
from service.contract.calls import Calls
from service.contract.errors import GoldenMismatchError
from service.contract.golden import check_golden
from service.engine.models.registry import load_model
from tests.fakes.foreign import leaky, leaky_graph
from tests.training.foreign.importing import import_onnx
from training.foreign.choices import Choices, ImportGraphError
from training.foreign.command import write_bundle_of


@pytest.fixture
def graph(tmp_path):
    path = tmp_path / "leaky.onnx"
    path.write_bytes(leaky_graph())
    return path


def write(path, models, *, ask=None, **choices):
    write_bundle_of(
        path, Choices(**choices), ask, "leaky", "1", "", "MIT", 1e-3, "import", models
    )  # fmt: skip
    return read_bundle(models / "leaky" / "1")


def test_states_are_proposed_by_name_and_written_with_their_axes(graph, tmp_path):
    import_onnx(graph, "--name", "leaky", "--constant", "gain=2", models=tmp_path / "models")
    manifest = read_bundle(tmp_path / "models/leaky/1").manifest
    states = {state.input: (state.output, state.shape) for state in manifest.graph.states}
    assert states == {"s": ("s_out", (1, "batch", 3)), "n": ("n_out", ("batch",))}
    assert [(spec.name, spec.shape) for spec in manifest.graph.outputs] == [("y", ("batch", 3))]
    assert manifest.graph.constants[0].value == 2


def test_without_a_terminal_all_that_is_not_known_is_listed(graph, tmp_path, capsys):
    with pytest.raises(AssertionError, match="exit 2"):
        import_onnx(graph, "--name", "leaky", models=tmp_path)
    assert "--constant gain=VALUE" in capsys.readouterr().err
    assert not (tmp_path / "leaky").exists()


def test_at_a_terminal_it_is_asked(graph, tmp_path):
    asked = []

    def ask(what):
        asked.append(what)
        return "3"

    assert write(graph, tmp_path, ask=ask).manifest.graph.constants[0].value == 3
    assert asked == ["'gain' is one float16: which? --constant"]


def test_the_bundle_answers_as_the_graph_does(graph, tmp_path):
    bundle = write(graph, tmp_path, constants={"gain": 2})
    run = load_model(bundle).runner.call
    xs = np.random.default_rng(0).uniform(-1, 1, (2, 5, 3)).astype(np.float16)
    layout = bundle.state_layout()
    calls = Calls(bundle.manifest.graph, layout)
    outputs, _ = calls.run_all(run, {"x": xs}, np.array([5, 5]), [layout.initial_row] * 2)
    np.testing.assert_array_equal(outputs["y"], [leaky(xs[0], 2), leaky(xs[1], 2)])


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"states": {"s": "nowhere"}}, "--state s=nowhere: the graph has no output"),
        ({"constants": {"gain": 1, "other": 1}}, "--constant other: the graph has no input"),
        ({"states": {"n": "y"}}, "outputs that fit: n_out"),
    ],
)
def test_choices_that_the_graph_contradicts_are_refused(graph, tmp_path, choices, told):
    with pytest.raises(ImportGraphError, match=told):
        write(graph, tmp_path, **({"constants": {"gain": 1}} | choices))
    assert not (tmp_path / "leaky").exists()


def test_an_open_version_is_not_replaced(graph, tmp_path):
    write(graph, tmp_path, constants={"gain": 1})
    with pytest.raises(ImportGraphError, match="is there already"):
        write(graph, tmp_path, constants={"gain": 2})


def test_rows_that_see_each_other_are_refused(graph, tmp_path):
    bundle = write(graph, tmp_path, constants={"gain": 1})
    run = load_model(bundle).runner.call

    def mixed(feeds):
        answers = run(feeds)
        return answers | {"y": answers["y"] + answers["y"].mean(axis=0)}

    with pytest.raises(GoldenMismatchError, match="'y' differs"):
        check_golden(bundle, mixed)


def test_a_graph_for_one_row_is_imported_as_one(tmp_path):
    path = tmp_path / "one.onnx"
    path.write_bytes(leaky_graph(rows=1))
    spec = write(path, tmp_path, constants={"gain": 1}).manifest.graph
    assert not spec.takes_rows
    assert [state.shape for state in spec.states] == [(1, 1, 3), (1,)]
